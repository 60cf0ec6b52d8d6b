-- name: oldest_open
-- The oldest request of the days to drop that has not ended; null for none.
SELECT id FROM requests
WHERE id < %(first)s AND state IN ('queued', 'running') ORDER BY id LIMIT 1;

-- name: drop_strays
-- Requests of days that nobody prepared a partition for.
DELETE FROM requests_default WHERE id < %(first)s;

-- name: drop_stray_attempts
-- Theirs.
DELETE FROM attempts_default WHERE request_id < %(first)s;

-- name: drop_fleeting
-- Whose requests are gone, or never came.
DELETE FROM fleeting WHERE request_id < %(first)s;

-- name: drop_webhooks
-- Delivered or given up; what is still owed stays.
DELETE FROM webhooks WHERE request_id < %(first)s AND next_at IS NULL;
