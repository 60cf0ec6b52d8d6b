-- name: bounds
-- Up to which transaction rows are folded (all, and recent ones), from which id on a row is recent, and the oldest
-- transaction that may still be under way: rows of all transactions below it are committed for good, so each is
-- folded exactly once, however late it came.
SELECT s.folded_below AS low, s.recent_below, s.recent_from,
    pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS high
FROM (SELECT) AS always LEFT JOIN rollup_state AS s ON true

-- name: leaves
-- The ledger's partitions.
SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'usage_records'::regclass ORDER BY 1

-- name: fold
-- Adds the rows of transactions from low to high to every rollup, in one statement.
WITH fresh AS MATERIALIZED (
    SELECT
        finished_at, slug, organization, version, pool, coalesce(currency, '') AS currency,
        CASE WHEN cardinality(adapters) < 2 THEN adapters ELSE ARRAY(SELECT unnest(adapters) ORDER BY 1) END AS adapters,
        (finished_at AT TIME ZONE 'UTC')::date AS day,
        (state = 'succeeded')::int AS succeeded, (state = 'failed')::int AS failed, (state = 'cancelled')::int AS cancelled,
        round(wait_seconds * 1000)::bigint AS wait_ms, round(load_seconds * 1000)::bigint AS load_ms,
        round(run_seconds * 1000)::bigint AS run_ms, images, round(megapixels * 1000000)::bigint AS pixels,
        round(video_seconds * 1000)::bigint AS video_ms, amount
    FROM {source} WHERE {rows}
), hours AS (
    INSERT INTO usage_hours
    SELECT date_trunc('hour', finished_at, 'UTC'), slug, organization, version, pool, adapters, currency,
        count(*), sum(succeeded), sum(failed), sum(cancelled), sum(wait_ms), sum(load_ms), sum(run_ms),
        sum(images), sum(pixels), sum(video_ms), sum(amount)
    FROM fresh GROUP BY 1, 2, 3, 4, 5, 6, 7
    ON CONFLICT (hour, slug, organization, version, pool, adapters, currency) DO UPDATE SET
        requests = usage_hours.requests + excluded.requests, succeeded = usage_hours.succeeded + excluded.succeeded,
        failed = usage_hours.failed + excluded.failed, cancelled = usage_hours.cancelled + excluded.cancelled,
        wait_ms = usage_hours.wait_ms + excluded.wait_ms, load_ms = usage_hours.load_ms + excluded.load_ms,
        run_ms = usage_hours.run_ms + excluded.run_ms, images = usage_hours.images + excluded.images,
        pixels = usage_hours.pixels + excluded.pixels, video_ms = usage_hours.video_ms + excluded.video_ms,
        amount = usage_hours.amount + excluded.amount
), days AS (
    INSERT INTO usage_days
    SELECT day, slug, organization, version, pool, adapters, currency,
        count(*), sum(succeeded), sum(failed), sum(cancelled), sum(wait_ms), sum(load_ms), sum(run_ms),
        sum(images), sum(pixels), sum(video_ms), sum(amount)
    FROM fresh GROUP BY 1, 2, 3, 4, 5, 6, 7
    ON CONFLICT (day, slug, organization, version, pool, adapters, currency) DO UPDATE SET
        requests = usage_days.requests + excluded.requests, succeeded = usage_days.succeeded + excluded.succeeded,
        failed = usage_days.failed + excluded.failed, cancelled = usage_days.cancelled + excluded.cancelled,
        wait_ms = usage_days.wait_ms + excluded.wait_ms, load_ms = usage_days.load_ms + excluded.load_ms,
        run_ms = usage_days.run_ms + excluded.run_ms, images = usage_days.images + excluded.images,
        pixels = usage_days.pixels + excluded.pixels, video_ms = usage_days.video_ms + excluded.video_ms,
        amount = usage_days.amount + excluded.amount
), months AS (
    INSERT INTO customer_months
    SELECT date_trunc('month', day)::date, organization, slug, count(*), sum(amount) FROM fresh GROUP BY 1, 2, 3
    ON CONFLICT (month, organization, slug) DO UPDATE SET
        requests = customer_months.requests + excluded.requests, amount = customer_months.amount + excluded.amount
), organizations AS (
    INSERT INTO organization_months
    SELECT date_trunc('month', day)::date, organization, count(*), sum(amount) FROM fresh GROUP BY 1, 2
    ON CONFLICT (month, organization) DO UPDATE SET
        requests = organization_months.requests + excluded.requests,
        amount = organization_months.amount + excluded.amount
), scopes AS (
    INSERT INTO scope_days
    SELECT coalesce('s:' || slug, 'o:' || organization, ''), day,
        count(*), sum(succeeded), sum(failed), sum(cancelled), sum(wait_ms), sum(load_ms), sum(run_ms),
        sum(images), sum(pixels), sum(video_ms), sum(amount)
    FROM fresh GROUP BY GROUPING SETS ((day), (day, slug), (day, organization))
    ON CONFLICT (scope, day) DO UPDATE SET
        requests = scope_days.requests + excluded.requests, succeeded = scope_days.succeeded + excluded.succeeded,
        failed = scope_days.failed + excluded.failed, cancelled = scope_days.cancelled + excluded.cancelled,
        wait_ms = scope_days.wait_ms + excluded.wait_ms, load_ms = scope_days.load_ms + excluded.load_ms,
        run_ms = scope_days.run_ms + excluded.run_ms, images = scope_days.images + excluded.images,
        pixels = scope_days.pixels + excluded.pixels, video_ms = scope_days.video_ms + excluded.video_ms,
        amount = scope_days.amount + excluded.amount
), latencies AS (
    INSERT INTO latency_days
    SELECT coalesce('s:' || slug, 'o:' || organization, ''), kind, day,
        greatest(0, least(83, floor(4 * ln(greatest(ms, 1)::float8 / 10) / ln(2::float8))))::smallint AS bucket, count(*)
    FROM fresh, LATERAL (VALUES ('wait', wait_ms), ('load', load_ms), ('run', run_ms)) AS timing (kind, ms)
    WHERE succeeded = 1
    GROUP BY GROUPING SETS ((day, kind, bucket), (day, kind, bucket, slug), (day, kind, bucket, organization))
    ON CONFLICT (scope, kind, day, bucket) DO UPDATE SET requests = latency_days.requests + excluded.requests
)
SELECT count(*) AS rows FROM fresh

-- name: mend_months
-- A gateway of the release that knew no `organization_months` folds past it; `customer_months` says what is missing.
INSERT INTO organization_months AS o
SELECT month, organization, sum(requests), sum(amount) FROM customer_months GROUP BY 1, 2
ON CONFLICT (month, organization) DO UPDATE SET requests = excluded.requests, amount = excluded.amount
WHERE (o.requests, o.amount) IS DISTINCT FROM (excluded.requests, excluded.amount)

-- name: advance
-- Remembers that the whole ledger is folded, and from which id on rows will be recent until the next time.
INSERT INTO rollup_state (folded_below, recent_below, recent_from) VALUES (%(high)s, %(high)s, %(recent_from)s)
ON CONFLICT (one) DO UPDATE SET folded_below = excluded.folded_below, recent_below = excluded.recent_below,
    recent_from = excluded.recent_from, folded_at = now()

-- name: advance_recent
-- Remembers how far recent rows are folded.
UPDATE rollup_state SET recent_below = %(high)s, folded_at = now()

-- name: lock
-- One fold at a time, whichever process does it; with room to sort a day of a large market.
SELECT pg_advisory_xact_lock(7309464), set_config('work_mem', '64MB', true)

-- name: empty
-- Forgets every sum; the next fold takes the whole ledger.
TRUNCATE usage_hours, usage_days, customer_months, organization_months, scope_days, latency_days, rollup_state
