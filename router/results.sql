-- name: record
-- What a finished request made, under its key; a later one with the same key has the fresher files.
INSERT INTO results (key, outcome, used_at)
SELECT key, outcome, now() FROM json_to_recordset(%(rows)s::json) AS r (key text, outcome json)
ON CONFLICT (key) DO UPDATE SET outcome = excluded.outcome, used_at = excluded.used_at;

-- name: find
-- The stored outcome of a key.
SELECT outcome::text FROM results WHERE key = %(key)s;

-- name: drop_before
-- What nobody used since a day.
DELETE FROM results WHERE used_at < %(day)s;
