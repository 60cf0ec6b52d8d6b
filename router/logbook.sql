-- name: page
-- The newest requests of one organization, or of all, between two ids, as far as they are wanted. It looks at so many
-- at most, so that a rare wish costs no more than a frequent one; `reached` is the last one that it looked at.
WITH looked AS MATERIALIZED (
    SELECT id, slug, state FROM requests
    WHERE (%(organization)s::text IS NULL OR organization = %(organization)s)
        AND id >= %(first)s::uuid AND id < %(before)s::uuid
    ORDER BY id DESC LIMIT %(looks)s
), found AS (
    SELECT id FROM looked
    WHERE (%(slug)s::text IS NULL OR slug = %(slug)s) AND (%(states)s::text[] IS NULL OR state = ANY(%(states)s))
    ORDER BY id DESC LIMIT %(limit)s
)
SELECT coalesce((SELECT array_agg(id::text ORDER BY id DESC) FROM found), '{}') AS ids,
    (SELECT id::text FROM looked ORDER BY id LIMIT 1) AS reached, (SELECT count(*) FROM looked) AS looked

-- name: lines
-- What the queue knows of them.
SELECT id::text, organization, slug, door, state AS status, created_at, started_at, finished_at
FROM requests WHERE id = ANY(%(ids)s::uuid[]) ORDER BY requests.id DESC

-- name: charges
-- What the ledger knows of those that ended.
SELECT request_id::text AS id, error, wait_seconds, load_seconds, run_seconds, unit, units, amount, currency, reused
FROM usage_records WHERE request_id = ANY(%(ids)s::uuid[])

-- name: charge
-- What one request cost.
SELECT amount, currency FROM usage_records WHERE request_id = %(id)s::uuid
