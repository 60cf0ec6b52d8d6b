-- name: owe
-- In the transaction that stores the outcome, so that a webhook is owed exactly when there is something to tell.
INSERT INTO webhooks (request_id, url, next_at)
SELECT request_id, url, now() FROM json_to_recordset(%(rows)s::json) AS r (request_id uuid, url text)
ON CONFLICT (request_id) DO NOTHING;

-- name: claim
-- Due deliveries, but for receivers that have enough of them; whoever claims one has a lease on it, so that a
-- deliverer that dies only delays it.
WITH due AS (
    SELECT request_id FROM webhooks
    WHERE next_at <= now() AND coalesce(substring(url FROM '://([^/?#]*)'), '') <> ALL(%(busy)s::text[])
    ORDER BY next_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
UPDATE webhooks w
SET tries = tries + 1, next_at = now() + make_interval(secs => %(lease_seconds)s)
FROM due WHERE w.request_id = due.request_id
RETURNING w.request_id::text, url, tries, coalesce(substring(url FROM '://([^/?#]*)'), '') AS receiver;

-- name: delivered
UPDATE webhooks SET delivered_at = now(), next_at = NULL, last_error = NULL WHERE request_id = %(id)s::uuid;

-- name: failed
-- Again later, or never when there is no pause left.
UPDATE webhooks
SET next_at = now() + make_interval(secs => %(pause_seconds)s::float8), last_error = %(error)s
WHERE request_id = %(id)s::uuid AND delivered_at IS NULL;
