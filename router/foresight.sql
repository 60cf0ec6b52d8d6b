-- name: remember
-- One row a pool, written again and again.
INSERT INTO dispatcher_memory (pool, saved_at, content) VALUES (%(pool)s, now(), %(content)s::json)
ON CONFLICT (pool) DO UPDATE SET saved_at = excluded.saved_at, content = excluded.content;

-- name: recall
-- What the last dispatcher of this pool knew.
SELECT content::text FROM dispatcher_memory WHERE pool = %(pool)s;

-- name: crowd
-- Who waits there, as far as it is alive: it writes every ten seconds.
SELECT (content -> 'waiting')::text AS waiting FROM dispatcher_memory
WHERE pool = %(pool)s AND saved_at > now() - interval '30 seconds' AND content -> 'waiting' IS NOT NULL;

-- name: days
-- Each version's GPU seconds per day in this pool, of those that are not negligible, ending yesterday (UTC).
SELECT version, array_agg((day - %(since)s::date)::int ORDER BY day) AS days, array_agg(seconds ORDER BY day) AS seconds
FROM (
    SELECT version, day, sum(run_ms)::float8 / 1000 AS seconds FROM usage_days
    WHERE pool = %(pool)s AND day BETWEEN %(since)s AND %(until)s
    GROUP BY version, day
) AS d GROUP BY version HAVING sum(seconds) FILTER (WHERE day > %(until)s::date - 7) >= %(at_least)s;
