-- name: submit
-- Store new requests; a repeated flush (its first answer was lost) changes nothing. Answers the database's time.
WITH stored AS (
    INSERT INTO requests (id, organization, key_id, slug, version, adapters, input, pool, priority, start_deadline,
                          webhook_url, door, origin, taken, result_key, traceparent, created_at)
    SELECT id, organization, key_id, slug, version, adapters, input, pool, priority, start_deadline,
           webhook_url, door, %(origin)s, taken, result_key, traceparent, now()
    FROM json_to_recordset(%(rows)s::json) AS r (
        id uuid, organization text, key_id text, slug text, version text, adapters json, input json, pool text,
        priority text, start_deadline timestamptz, webhook_url text, door text, taken boolean, result_key text,
        traceparent text)
    ON CONFLICT (id) DO NOTHING
)
SELECT now() AS created_at;

-- name: let_pass
-- Of these requests nothing is to be kept. Written before they are, so that none is forgotten.
INSERT INTO fleeting (request_id) SELECT unnest(%(ids)s::uuid[]) ON CONFLICT DO NOTHING;

-- name: announce
-- Tell the other processes; delivered at commit.
SELECT pg_notify(%(channel)s, message) FROM unnest(%(messages)s::text[]) AS message;

-- name: take_up
-- The oldest waiting requests of every line that no dispatcher has in memory, as many of each as there is room for, the
-- bytes of stored inputs counted; several takers never get the same row. Lines are found by hops in the index, so that
-- long ones cost no more than short ones.
WITH RECURSIVE line AS (
    (SELECT organization, priority FROM requests
     WHERE pool = %(pool)s AND state = 'queued' AND NOT taken
     ORDER BY organization, priority LIMIT 1)
    UNION ALL
    SELECT following.* FROM line CROSS JOIN LATERAL (
        SELECT r.organization, r.priority FROM requests r
        WHERE r.pool = %(pool)s AND r.state = 'queued' AND NOT r.taken
          AND (r.organization, r.priority) > (line.organization, line.priority)
        ORDER BY r.organization, r.priority LIMIT 1) AS following
), room AS (
    SELECT line.*, coalesce((named ->> 0)::int, %(count)s) AS count,
        coalesce((named ->> 1)::bigint, %(size_bytes)s) AS size_bytes
    FROM line CROSS JOIN LATERAL (
        SELECT %(rooms)s::jsonb -> (line.priority || ' ' || line.organization) AS named) AS known
), oldest AS (
    SELECT room.organization, room.priority, room.size_bytes AS room_bytes, r.*
    FROM room CROSS JOIN LATERAL (
        SELECT r.id, pg_column_size(r.input) AS size_bytes FROM requests r
        WHERE r.pool = %(pool)s AND r.state = 'queued' AND NOT r.taken
          AND r.organization = room.organization AND r.priority = room.priority
        ORDER BY r.id LIMIT room.count FOR UPDATE SKIP LOCKED) AS r
), free AS (
    SELECT id FROM (
        SELECT id, room_bytes, sum(size_bytes) OVER line - size_bytes AS bytes_before
        FROM oldest WINDOW line AS (PARTITION BY organization, priority ORDER BY id)) AS counted
    WHERE bytes_before < room_bytes
)
UPDATE requests r SET taken = true FROM free WHERE r.id = free.id
RETURNING r.id::text, organization, key_id, slug, version, adapters::text, input::text, pool, priority, created_at,
          start_deadline, webhook_url, door, result_key, traceparent, origin, attempt, host_faults;

-- name: take
-- Of the requests that were named, those that still wait and that no dispatcher has in memory.
UPDATE requests SET taken = true
WHERE id = ANY(%(ids)s::uuid[]) AND state = 'queued' AND NOT taken
RETURNING id::text, organization, key_id, slug, version, adapters::text, input::text, pool, priority, created_at,
          start_deadline, webhook_url, door, result_key, traceparent, origin, attempt, host_faults;

-- name: late
-- Waiting requests that no dispatcher has in memory and whose deadline to start has passed.
WITH late AS (
    SELECT id FROM requests
    WHERE pool = %(pool)s AND state = 'queued' AND NOT taken AND start_deadline <= now()
    ORDER BY start_deadline LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
UPDATE requests r SET taken = true FROM late WHERE r.id = late.id
RETURNING r.id::text, organization, key_id, slug, version, adapters::text, input::text, pool, priority, created_at,
          start_deadline, webhook_url, door, result_key, traceparent, origin, attempt, host_faults;

-- name: release
-- A dispatcher begins: whatever its predecessor had in memory and did not start is free again.
UPDATE requests SET taken = false WHERE pool = %(pool)s AND state = 'queued' AND taken;

-- name: untake
-- No dispatcher has these in memory after all.
UPDATE requests SET taken = false WHERE id = ANY(%(ids)s::uuid[]) AND state = 'queued' AND taken;

-- name: running
-- What the tables say is on hosts; hosts that come back say the same, or it is requeued.
SELECT id::text, organization, key_id, slug, version, adapters::text, input::text, pool, priority, created_at,
       start_deadline, webhook_url, door, result_key, traceparent, origin, attempt, host_faults, host_id, started_at
FROM requests WHERE pool = %(pool)s AND state = 'running';

-- name: held
-- What the tables say is in the dispatcher's memory, but for what moved a moment ago.
SELECT id::text, state FROM requests
WHERE pool = %(pool)s AND ((state = 'queued' AND taken) OR state = 'running')
  AND greatest(created_at, started_at) < now() - make_interval(secs => %(settled_seconds)s);

-- name: assign
-- Write attempts before they are sent. Answers those that were really taken: a cancelled request is not,
-- nor one whose number another dispatcher already used. `repeated`: so are those that this same call, whose
-- first answer was lost, took before (here and below).
WITH wanted AS (
    SELECT * FROM json_to_recordset(%(rows)s::json) AS w (id uuid, number int, host_id text, decision json)
), moved AS (
    UPDATE requests r
    SET state = 'running', attempt = w.number, host_id = w.host_id, started_at = now()
    FROM wanted w
    WHERE r.id = w.id AND r.state = 'queued' AND r.attempt = w.number - 1
    RETURNING r.id, r.attempt
), written AS (
    INSERT INTO attempts (request_id, number, host_id, decision, assigned_at)
    SELECT w.id, w.number, w.host_id, w.decision, now() FROM moved JOIN wanted w ON w.id = moved.id
)
SELECT id::text FROM moved
UNION ALL
SELECT r.id::text FROM requests r JOIN wanted w ON r.id = w.id
WHERE %(repeated)s AND r.state = 'running' AND r.attempt = w.number AND r.host_id = w.host_id;

-- name: requeue
-- A host's fault, or staged work handed back: close the attempt with its reason, wait again.
WITH wanted AS (
    SELECT * FROM json_to_recordset(%(rows)s::json) AS w (id uuid, number int, reason text, faults int)
), moved AS (
    UPDATE requests r SET state = 'queued', host_id = NULL, host_faults = w.faults
    FROM wanted w
    WHERE r.id = w.id AND r.state = 'running' AND r.attempt = w.number
    RETURNING r.id, r.attempt
), closed AS (
    UPDATE attempts a SET ended_at = now(), ended = w.reason
    FROM wanted w, moved
    WHERE a.request_id = w.id AND a.number = w.number AND moved.id = w.id
)
SELECT id::text FROM moved
UNION ALL
SELECT r.id::text FROM requests r JOIN wanted w ON r.id = w.id
WHERE %(repeated)s AND r.state = 'queued' AND r.attempt = w.number;

-- name: accept
-- Partners' own names of attempts; kept whatever becomes of the request, for it may have been paid for.
UPDATE attempts a SET partner_request_id = w.partner_request_id
FROM json_to_recordset(%(rows)s::json) AS w (id uuid, number int, partner_request_id text)
WHERE a.request_id = w.id AND a.number = w.number;

-- name: adopt
-- A host that was believed lost still works on it and nobody else began: its attempt goes on.
WITH wanted AS (
    SELECT * FROM json_to_recordset(%(rows)s::json) AS w (id uuid, number int, host_id text, faults int)
), moved AS (
    UPDATE requests r SET state = 'running', host_id = w.host_id, host_faults = w.faults
    FROM wanted w
    WHERE r.id = w.id AND r.state = 'queued' AND r.attempt = w.number
    RETURNING r.id, r.attempt
), reopened AS (
    UPDATE attempts a SET ended_at = NULL, ended = NULL
    FROM moved WHERE a.request_id = moved.id AND a.number = moved.attempt
)
SELECT id::text FROM moved
UNION ALL
SELECT r.id::text FROM requests r JOIN wanted w ON r.id = w.id
WHERE %(repeated)s AND r.state = 'running' AND r.attempt = w.number AND r.host_id = w.host_id;

-- name: finish
-- Final states. `number` fences reports of hosts; callers' cancellations and deadlines have none.
WITH wanted AS (
    SELECT * FROM json_to_recordset(%(rows)s::json) AS w (id uuid, number int, state text, outcome json)
), moved AS (
    UPDATE requests r
    SET state = w.state, outcome = w.outcome, finished_at = now()
    FROM wanted w
    WHERE r.id = w.id AND (
        (w.number IS NULL AND r.state IN ('queued', 'running'))
        OR (r.state = 'running' AND r.attempt = w.number))
    RETURNING r.id, r.started_at, r.finished_at
)
SELECT id::text, started_at, finished_at FROM moved
UNION ALL
SELECT r.id::text, r.started_at, r.finished_at FROM requests r JOIN wanted w ON r.id = w.id
WHERE %(repeated)s AND r.state = w.state AND r.outcome::jsonb = w.outcome::jsonb
    AND (w.number IS NULL OR r.attempt = w.number);

-- name: statuses
-- Requests as their callers may see them, in some of the states.
SELECT id::text, organization, key_id, slug, version, adapters::text, input::text, pool, priority, created_at,
       start_deadline, webhook_url, door, result_key, traceparent, state, attempt, host_faults, started_at, finished_at, outcome::text
FROM requests WHERE id = ANY(%(ids)s::uuid[]) AND state = ANY(%(states)s::text[]);

-- name: ahead
-- How many of its own line wait before this one, counted no further than `limit`.
SELECT count(*) FROM (
    SELECT 1 FROM requests me JOIN requests r
        ON r.pool = me.pool AND r.organization = me.organization AND r.priority = me.priority
    WHERE me.id = %(id)s::uuid AND r.pool = %(pool)s AND r.state = 'queued' AND r.taken IN (true, false)
      AND r.id < %(id)s::uuid
    LIMIT %(limit)s
) AS older;

-- name: attempts
-- Every try of a request, with the decision that placed it.
SELECT number, host_id, assigned_at, ended_at, ended, decision, partner_request_id
FROM attempts WHERE request_id = %(id)s::uuid ORDER BY number;

-- name: erase
-- What a finished request was sent and what it made, forgotten; gives what it was, and who else has files under its key.
WITH before AS (
    SELECT id, outcome, result_key FROM requests
    WHERE id = %(id)s::uuid AND state IN ('succeeded', 'failed', 'cancelled') FOR UPDATE
), uncached AS (
    DELETE FROM results USING before WHERE key = before.result_key
), erased AS (
    UPDATE requests r
    SET input = '{}', result_key = NULL, outcome = (before.outcome::jsonb
        || '{"files": [], "result": {}, "places": null, "logs": [], "erased": true}')::json
    FROM before WHERE r.id = before.id
)
SELECT outcome::text, (
    SELECT coalesce(json_agg(other.outcome), '[]')::text FROM requests other
    WHERE other.result_key = before.result_key AND other.id <> before.id AND other.state = 'succeeded'
) AS others FROM before;

-- name: past
-- Requests of which nothing is to be kept, that ended so long ago and of whom everybody was told.
SELECT f.request_id::text AS id FROM fleeting f JOIN requests r ON r.id = f.request_id
WHERE r.finished_at < now() - %(kept)s
  AND NOT EXISTS (SELECT FROM webhooks w WHERE w.request_id = r.id AND w.next_at IS NOT NULL)
LIMIT %(limit)s;

-- name: forgotten
-- They need not be looked at again.
DELETE FROM fleeting WHERE request_id = ANY(%(ids)s::uuid[]);
