-- name: remember
-- One row a pool, written again and again.
INSERT INTO dispatcher_memory (pool, saved_at, content) VALUES (%(pool)s, now(), %(content)s::json)
ON CONFLICT (pool) DO UPDATE SET saved_at = excluded.saved_at, content = excluded.content;

-- name: recall
-- What the last dispatcher of this pool knew.
SELECT content::text FROM dispatcher_memory WHERE pool = %(pool)s;
