-- name: record
-- One usage record per request: a second one with the same request id is not an error and changes nothing.
INSERT INTO usage_records (
    request_id, organization, key_id, slug, version, adapters, pool, door, state, error, attempt, host_id,
    created_at, finished_at, wait_seconds, load_seconds, run_seconds,
    images, megapixels, video_seconds, unit, units, amount, currency
) VALUES (
    %(request_id)s, %(organization)s, %(key_id)s, %(slug)s, %(version)s, %(adapters)s, %(pool)s, %(door)s,
    %(state)s, %(error)s, %(attempt)s, %(host_id)s,
    %(created_at)s, %(finished_at)s, %(wait_seconds)s, %(load_seconds)s, %(run_seconds)s,
    %(images)s, %(megapixels)s, %(video_seconds)s, %(unit)s, %(units)s, %(amount)s, %(currency)s
) ON CONFLICT (request_id) DO NOTHING

-- name: callers
-- Who called a slug since a time, most active first.
SELECT organization, count(*) AS calls FROM usage_records
WHERE slug = %(slug)s AND finished_at >= %(since)s
GROUP BY organization ORDER BY calls DESC, organization
