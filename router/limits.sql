-- name: begin
-- A key's first call: a full bucket.
INSERT INTO quotas (key_id, tokens, at) VALUES (%(key_id)s, %(burst)s, now()) ON CONFLICT (key_id) DO NOTHING;

-- name: lease
-- Take up to `wanted` whole tokens from what has flowed into the bucket by now; says how many, and what is left.
-- A clock that was put back fills nothing and takes nothing away.
WITH bucket AS (
    SELECT key_id, least(%(burst)s, tokens + greatest(0, extract(epoch FROM now() - at)) * %(per_second)s) AS filled
    FROM quotas WHERE key_id = %(key_id)s FOR UPDATE
)
UPDATE quotas q SET tokens = filled - least(%(wanted)s, floor(filled)), at = now()
FROM bucket WHERE q.key_id = bucket.key_id
RETURNING least(%(wanted)s, floor(filled))::int AS granted, q.tokens;
