-- name: bounds
-- Up to which transaction rows are folded (all, and recent ones), from which id on a row is recent, and the oldest
-- transaction that may still be under way: rows of all transactions below it are committed for good, so each is
-- folded exactly once, however late it came. Not `complete`: a gateway of an older release folded past the newest tables.
SELECT s.folded_below AS low, s.recent_below, s.recent_from,
    s.complete_at IS NOT DISTINCT FROM s.folded_below + s.recent_below AS complete,
    pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS high
FROM (SELECT) AS always LEFT JOIN rollup_state AS s ON true

-- name: leaves
-- The ledger's partitions.
SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'usage_records'::regclass ORDER BY 1

-- name: fold
-- Adds the rows of transactions from low to high to every rollup, in one statement: the ledger's rows to hours, hours
-- to days, days to all other sums. Rows come in the order of the keys: neighbours in an index cost half of strangers.
WITH fresh AS MATERIALIZED (
    SELECT
        date_trunc('hour', finished_at, 'UTC') AS hour, (finished_at AT TIME ZONE 'UTC')::date AS day,
        slug, organization, version, pool, coalesce(currency, '') AS currency,
        CASE WHEN cardinality(adapters) < 2 THEN adapters ELSE ARRAY(SELECT unnest(adapters) ORDER BY 1) END AS adapters,
        (state = 'succeeded')::int AS succeeded, (state = 'failed')::int AS failed, (state = 'cancelled')::int AS cancelled,
        round(wait_seconds * 1000)::bigint AS wait_ms, round(load_seconds * 1000)::bigint AS load_ms,
        round(run_seconds * 1000)::bigint AS run_ms, images, round(megapixels * 1000000)::bigint AS pixels,
        round(video_seconds * 1000)::bigint AS video_ms, amount
    FROM {source} WHERE {rows}
), hourly AS MATERIALIZED (
    SELECT hour, day, slug, organization, version, pool, adapters, currency,
        count(*) AS requests, sum(succeeded) AS succeeded, sum(failed) AS failed, sum(cancelled) AS cancelled,
        sum(wait_ms)::bigint AS wait_ms, sum(load_ms)::bigint AS load_ms, sum(run_ms)::bigint AS run_ms,
        sum(images) AS images, sum(pixels)::bigint AS pixels, sum(video_ms)::bigint AS video_ms, sum(amount) AS amount
    FROM fresh GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
), daily AS MATERIALIZED (
    SELECT day, slug, organization, version, pool, adapters, currency,
        sum(requests)::bigint AS requests, sum(succeeded)::bigint AS succeeded, sum(failed)::bigint AS failed,
        sum(cancelled)::bigint AS cancelled, sum(wait_ms)::bigint AS wait_ms, sum(load_ms)::bigint AS load_ms,
        sum(run_ms)::bigint AS run_ms, sum(images)::bigint AS images, sum(pixels)::bigint AS pixels,
        sum(video_ms)::bigint AS video_ms, sum(amount) AS amount
    FROM hourly GROUP BY 1, 2, 3, 4, 5, 6, 7
), hours AS (
    INSERT INTO usage_hours
    SELECT hour, slug, organization, version, pool, adapters, currency, requests, succeeded, failed, cancelled,
        wait_ms, load_ms, run_ms, images, pixels, video_ms, amount
    FROM hourly ORDER BY hour, slug, organization
    ON CONFLICT (hour, slug, organization, version, pool, adapters, currency) DO UPDATE SET
        requests = usage_hours.requests + excluded.requests, succeeded = usage_hours.succeeded + excluded.succeeded,
        failed = usage_hours.failed + excluded.failed, cancelled = usage_hours.cancelled + excluded.cancelled,
        wait_ms = usage_hours.wait_ms + excluded.wait_ms, load_ms = usage_hours.load_ms + excluded.load_ms,
        run_ms = usage_hours.run_ms + excluded.run_ms, images = usage_hours.images + excluded.images,
        pixels = usage_hours.pixels + excluded.pixels, video_ms = usage_hours.video_ms + excluded.video_ms,
        amount = usage_hours.amount + excluded.amount
), days AS (
    INSERT INTO usage_days SELECT * FROM daily ORDER BY day, slug, organization
    ON CONFLICT (day, slug, organization, version, pool, adapters, currency) DO UPDATE SET
        requests = usage_days.requests + excluded.requests, succeeded = usage_days.succeeded + excluded.succeeded,
        failed = usage_days.failed + excluded.failed, cancelled = usage_days.cancelled + excluded.cancelled,
        wait_ms = usage_days.wait_ms + excluded.wait_ms, load_ms = usage_days.load_ms + excluded.load_ms,
        run_ms = usage_days.run_ms + excluded.run_ms, images = usage_days.images + excluded.images,
        pixels = usage_days.pixels + excluded.pixels, video_ms = usage_days.video_ms + excluded.video_ms,
        amount = usage_days.amount + excluded.amount
), customers AS (
    INSERT INTO customer_months
    SELECT date_trunc('month', day)::date, organization, slug, sum(requests), sum(amount)
    FROM daily GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    ON CONFLICT (month, organization, slug) DO UPDATE SET
        requests = customer_months.requests + excluded.requests, amount = customer_months.amount + excluded.amount
), organizations AS (
    INSERT INTO organization_months
    SELECT date_trunc('month', day)::date, organization, sum(requests), sum(amount) FROM daily GROUP BY 1, 2
    ON CONFLICT (month, organization) DO UPDATE SET
        requests = organization_months.requests + excluded.requests,
        amount = organization_months.amount + excluded.amount
), variants AS (
    INSERT INTO variant_months
    SELECT date_trunc('month', day)::date, slug, sum(requests), sum(amount) FROM daily GROUP BY 1, 2
    ON CONFLICT (month, slug) DO UPDATE SET
        requests = variant_months.requests + excluded.requests, amount = variant_months.amount + excluded.amount
), loras AS (
    INSERT INTO adapter_months
    SELECT slug, date_trunc('month', day)::date, unnest(adapters), sum(requests) FROM daily GROUP BY 1, 2, 3
    ON CONFLICT (slug, month, adapter) DO UPDATE SET requests = adapter_months.requests + excluded.requests
), versions AS (
    INSERT INTO version_days SELECT slug, day, version, sum(requests) FROM daily GROUP BY 1, 2, 3
    ON CONFLICT (slug, day, version) DO UPDATE SET requests = version_days.requests + excluded.requests
), scopes AS (
    INSERT INTO scope_days
    SELECT coalesce('s:' || slug, 'o:' || organization, ''), day,
        sum(requests), sum(succeeded), sum(failed), sum(cancelled), sum(wait_ms), sum(load_ms), sum(run_ms),
        sum(images), sum(pixels), sum(video_ms), sum(amount)
    FROM daily GROUP BY GROUPING SETS ((day), (day, slug), (day, organization)) ORDER BY 1, 2
    ON CONFLICT (scope, day) DO UPDATE SET
        requests = scope_days.requests + excluded.requests, succeeded = scope_days.succeeded + excluded.succeeded,
        failed = scope_days.failed + excluded.failed, cancelled = scope_days.cancelled + excluded.cancelled,
        wait_ms = scope_days.wait_ms + excluded.wait_ms, load_ms = scope_days.load_ms + excluded.load_ms,
        run_ms = scope_days.run_ms + excluded.run_ms, images = scope_days.images + excluded.images,
        pixels = scope_days.pixels + excluded.pixels, video_ms = scope_days.video_ms + excluded.video_ms,
        amount = scope_days.amount + excluded.amount
), latencies AS (
    INSERT INTO latency_days
    SELECT coalesce('s:' || slug, 'o:' || organization, ''), (ARRAY['wait', 'load', 'run'])[code / 84 + 1], day,
        mod(code, 84)::smallint, count(*)
    FROM (
        SELECT day, slug, organization,  -- kind and bucket as one number: grouping compares fewer things
            kind * 84 + greatest(0, least(83, floor(4 * ln(greatest(ms, 1)::float8 / 10) / ln(2::float8))))::int AS code
        FROM fresh, LATERAL (VALUES (0, wait_ms), (1, load_ms), (2, run_ms)) AS timing (kind, ms)
        WHERE succeeded = 1
    ) AS timings
    GROUP BY GROUPING SETS ((day, code), (day, code, slug), (day, code, organization)) ORDER BY 1, 2, 3, 4
    ON CONFLICT (scope, kind, day, bucket) DO UPDATE SET requests = latency_days.requests + excluded.requests
)
SELECT count(*) AS rows FROM fresh

-- name: mend
-- A gateway of a release that does not know the newest tables folds past them: what `usage_days` tells is told anew.
DELETE FROM customer_months; DELETE FROM organization_months; DELETE FROM variant_months;
DELETE FROM adapter_months; DELETE FROM version_days;
INSERT INTO customer_months
SELECT date_trunc('month', day)::date, organization, slug, sum(requests), sum(amount) FROM usage_days GROUP BY 1, 2, 3;
INSERT INTO organization_months
SELECT month, organization, sum(requests), sum(amount) FROM customer_months GROUP BY 1, 2;
INSERT INTO variant_months SELECT month, slug, sum(requests), sum(amount) FROM customer_months GROUP BY 1, 2;
INSERT INTO adapter_months
SELECT slug, date_trunc('month', day)::date, unnest(adapters), sum(requests) FROM usage_days GROUP BY 1, 2, 3;
INSERT INTO version_days SELECT slug, day, version, sum(requests) FROM usage_days GROUP BY 1, 2, 3

-- name: advance
-- Remembers that the whole ledger is folded into every table, and from which id on rows will be recent until the next time.
INSERT INTO rollup_state (folded_below, recent_below, recent_from, complete_at)
VALUES (%(high)s, %(high)s, %(recent_from)s, 2 * %(high)s)
ON CONFLICT (one) DO UPDATE SET folded_below = excluded.folded_below, recent_below = excluded.recent_below,
    recent_from = excluded.recent_from, complete_at = excluded.complete_at, folded_at = now()

-- name: advance_recent
-- Remembers how far recent rows are folded; tables that were not complete are not so now.
UPDATE rollup_state SET recent_below = %(high)s, folded_at = now(),
    complete_at = CASE WHEN complete_at = folded_below + recent_below THEN folded_below + %(high)s ELSE complete_at END

-- name: lock
-- One fold at a time, whichever process does it; with room to sort a day of a large market.
SELECT pg_advisory_xact_lock(7309464), set_config('work_mem', '64MB', true)

-- name: empty
-- Forgets every sum; the next fold takes the whole ledger.
TRUNCATE usage_hours, usage_days, customer_months, organization_months, variant_months, adapter_months, version_days,
    scope_days, latency_days, rollup_state
