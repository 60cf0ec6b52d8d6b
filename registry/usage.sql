-- name: record
-- One usage record per request: a second one with the same request id is not an error and changes nothing.
INSERT INTO usage_records (
    request_id, organization, key_id, slug, version, adapters, pool, door, state, error, attempt, host_id,
    created_at, finished_at, wait_seconds, load_seconds, run_seconds,
    images, megapixels, video_seconds, unit, units, amount, currency, reused
)
SELECT request_id, organization, key_id, slug, version, adapters, pool, door, state, error, attempt, host_id,
       created_at, finished_at, wait_seconds, load_seconds, run_seconds,
       images, megapixels, video_seconds, unit, units, amount, currency, reused
FROM json_to_recordset(%(rows)s::json) AS r (
    request_id uuid, organization text, key_id text, slug text, version text, adapters text[], pool text, door text,
    state text, error text, attempt int, host_id text, created_at timestamptz, finished_at timestamptz,
    wait_seconds float8, load_seconds float8, run_seconds float8, images int, megapixels float8,
    video_seconds float8, unit text, units numeric, amount numeric, currency text, reused boolean)
ON CONFLICT (request_id) DO NOTHING
