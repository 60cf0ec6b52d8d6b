-- name: sign
-- Of a day's figures: those of days beyond the period are taken off again.
(CASE WHEN day = ANY(%(beyond)s) THEN -1 ELSE 1 END)

-- name: variant_days
-- Requests, failures, seconds and money per variant and day, as far as the view reaches; of one variant where `slug` says.
-- Sums are cast back: else the union would turn each row of the first part into numerics.
-- The bounds of `scope` are what an index can look up; the last two lines of each part are no limits where they are null.
SELECT substr(scope, 3) AS slug, day, requests, failed, wait_ms, load_ms, run_ms, amount
FROM scope_days
WHERE %(organization)s::text IS NULL AND scope >= 's:' AND scope < 's;' AND day BETWEEN %(since)s AND %(until)s
    AND (%(slugs)s::text[] IS NULL OR scope = ANY(%(scopes)s))
    AND (%(slug)s::text IS NULL OR scope = 's:' || %(slug)s)
UNION ALL
SELECT slug, day, sum(requests)::bigint, sum(failed)::bigint, sum(wait_ms)::bigint, sum(load_ms)::bigint,
    sum(run_ms)::bigint, sum(amount)
FROM usage_days
WHERE organization = %(organization)s AND day BETWEEN %(since)s AND %(until)s
    AND (%(slug)s::text IS NULL OR slug = %(slug)s)
GROUP BY slug, day

-- name: variant_requests
-- The same for requests alone, from the narrowest sums that tell it. A day may come in pieces, one a version.
SELECT slug, day, requests
FROM version_days
WHERE %(organization)s::text IS NULL AND day BETWEEN %(since)s AND %(until)s
    AND (%(slugs)s::text[] IS NULL OR slug = ANY(%(slugs)s))
    AND (%(slug)s::text IS NULL OR slug = %(slug)s)
UNION ALL
SELECT slug, day, requests
FROM usage_days
WHERE organization = %(organization)s AND day BETWEEN %(since)s AND %(until)s
    AND (%(slug)s::text IS NULL OR slug = %(slug)s)

-- name: owned
-- The variants of a lab.
SELECT slug FROM variants WHERE owner = %(owner)s ORDER BY slug

-- name: days
-- Sums per day over everything the view holds.
SELECT day, sum(requests)::bigint AS requests, sum(succeeded)::bigint AS succeeded, sum(failed)::bigint AS failed,
    sum(wait_ms)::bigint AS wait_ms, sum(load_ms)::bigint AS load_ms, sum(run_ms)::bigint AS run_ms,
    sum(amount) AS amount
FROM scope_days WHERE scope = ANY(%(scopes)s) AND day BETWEEN %(since)s AND %(until)s
GROUP BY day ORDER BY day

-- name: latencies
-- Requests per day and kind, as arrays of buckets of seconds and how many fell into each.
SELECT day, kind, array_agg(bucket) AS buckets, array_agg(requests) AS requests
FROM (
    SELECT day, kind, bucket, sum(requests)::bigint AS requests
    FROM latency_days WHERE scope = ANY(%(scopes)s) AND kind = ANY(%(kinds)s) AND day BETWEEN %(since)s AND %(until)s
    GROUP BY day, kind, bucket
) AS b GROUP BY day, kind

-- name: latency_sums
-- The same over the whole period.
SELECT NULL::date AS day, kind, array_agg(bucket) AS buckets, array_agg(requests) AS requests
FROM (
    SELECT kind, bucket, sum(requests)::bigint AS requests
    FROM latency_days WHERE scope = ANY(%(scopes)s) AND kind = ANY(%(kinds)s) AND day BETWEEN %(since)s AND %(until)s
    GROUP BY kind, bucket
) AS b GROUP BY kind

-- name: variant_sums
-- Each variant's requests and money in the period, as far as the view reaches. Months from their sums; days at the
-- ends are added or, where they lie beyond them, taken off again.
SELECT slug, sum(requests)::bigint AS requests, sum(amount) AS amount FROM (
    SELECT slug, requests, amount FROM variant_months
    WHERE %(organization)s::text IS NULL AND month = ANY(%(months)s)
        AND (%(slugs)s::text[] IS NULL OR slug = ANY(%(slugs)s))
    UNION ALL
    SELECT substr(scope, 3), {sign} * requests, {sign} * amount
    FROM scope_days
    WHERE %(organization)s::text IS NULL AND scope >= 's:' AND scope < 's;' AND day = ANY(%(edges)s)
        AND (%(slugs)s::text[] IS NULL OR scope = ANY(%(scopes)s))
    UNION ALL
    SELECT slug, requests, amount FROM customer_months
    WHERE organization = %(organization)s AND month = ANY(%(months)s)
    UNION ALL
    SELECT slug, {sign} * requests, {sign} * amount
    FROM usage_days WHERE organization = %(organization)s AND day = ANY(%(edges)s)
) AS pieces GROUP BY slug HAVING sum(requests) > 0

-- name: weeks
-- Requests per variant, as arrays by sevens of days, counted back from the last day.
SELECT slug, array_agg(weeks_ago) AS weeks_ago, array_agg(requests) AS requests FROM (
    SELECT slug, ((%(until)s::date - day) / 7)::int AS weeks_ago, sum(requests)::bigint AS requests
    FROM ({variant_requests}) AS d GROUP BY 1, 2
) AS w GROUP BY slug

-- name: series
-- Each variant's days and amounts as arrays, for the statistics.
SELECT slug, array_agg(day - %(since)s::date) AS days, array_agg(requests::float8) AS requests,
    sum(requests) FILTER (WHERE day > %(until)s::date - 30)::bigint AS recent
FROM ({variant_requests}) AS d GROUP BY slug

-- name: one_variant
-- One variant's days.
SELECT day, requests, failed, wait_ms, load_ms, run_ms, amount FROM ({variant_days}) AS d ORDER BY day

-- name: versions
-- One variant's requests per week and version.
SELECT d.*, (SELECT max(number) FROM versions WHERE variant = %(slug)s AND digest = d.version) AS number FROM (
    SELECT version, ((%(until)s::date - day) / 7)::int AS weeks_ago, sum(requests)::bigint AS requests FROM (
        SELECT version, day, requests FROM version_days
        WHERE %(organization)s::text IS NULL AND slug = %(slug)s AND day BETWEEN %(since)s AND %(until)s
        UNION ALL
        SELECT version, day, requests FROM usage_days
        WHERE organization = %(organization)s AND slug = %(slug)s AND day BETWEEN %(since)s AND %(until)s
    ) AS pieces GROUP BY 1, 2
) AS d

-- name: adapters
-- The LoRAs that one variant was called with. Months from their sums, but for a customer's own.
SELECT coalesce(a.slug, u.adapter) AS adapter, sum(u.requests)::bigint AS requests
FROM (
    SELECT adapter, requests FROM adapter_months
    WHERE %(organization)s::text IS NULL AND slug = %(slug)s AND month = ANY(%(months)s)
    UNION ALL
    SELECT unnest(adapters), {sign} * requests FROM usage_days
    WHERE %(organization)s::text IS NULL AND slug = %(slug)s AND day = ANY(%(edges)s)
    UNION ALL
    SELECT unnest(adapters), requests FROM usage_days
    WHERE organization = %(organization)s AND slug = %(slug)s AND day BETWEEN %(since)s AND %(until)s
) AS u LEFT JOIN adapters AS a ON a.digest = u.adapter
GROUP BY 1 HAVING sum(u.requests) > 0 ORDER BY requests DESC, adapter LIMIT 20

-- name: callers
-- Who called one variant. Months from their sums.
SELECT organization, sum(requests)::bigint AS requests, sum(amount) AS amount FROM (
    SELECT organization, requests, amount FROM customer_months WHERE slug = %(slug)s AND month = ANY(%(months)s)
    UNION ALL
    SELECT organization, {sign} * requests, {sign} * amount
    FROM usage_days WHERE slug = %(slug)s AND day = ANY(%(edges)s)
) AS pieces GROUP BY 1 HAVING sum(requests) > 0 ORDER BY requests DESC, organization LIMIT 20

-- name: releases
-- Launch windows, newest first.
SELECT r.variant, r.window, r.shares, r.created_at, r.withdrawn_at FROM releases AS r
WHERE (%(slug)s::text IS NULL OR r.variant = %(slug)s)
    AND (%(slugs)s::text[] IS NULL OR r.variant = ANY(%(slugs)s))
ORDER BY r.id DESC LIMIT 200

-- name: customers
-- Per customer: requests and money. Months from their sums.
SELECT organization, sum(requests)::bigint AS requests, sum(amount) AS amount FROM (
    SELECT organization, requests, amount FROM organization_months WHERE month = ANY(%(months)s)
    UNION ALL
    SELECT substr(scope, 3), {sign} * requests, {sign} * amount
    FROM scope_days WHERE left(scope, 2) = 'o:' AND day = ANY(%(edges)s)
) AS pieces WHERE %(organization)s::text IS NULL OR organization = %(organization)s
GROUP BY organization HAVING sum(requests) > 0 ORDER BY requests DESC, organization

-- name: favourites
-- Of some customers: models used, and the most used one with its requests.
SELECT organization, count(*) AS models, max(requests)::bigint AS top_requests,
    (array_agg(slug ORDER BY requests DESC, slug))[1] AS top_model
FROM (
    SELECT organization, slug, sum(requests) AS requests FROM (
        SELECT organization, slug, requests FROM customer_months
        WHERE organization = ANY(%(organizations)s) AND month = ANY(%(months)s)
        UNION ALL
        SELECT organization, slug, {sign} * requests FROM usage_days
        WHERE organization = ANY(%(organizations)s) AND day = ANY(%(edges)s)
    ) AS pieces GROUP BY 1, 2 HAVING sum(requests) > 0
) AS d GROUP BY organization

-- name: active_months
-- In which months (running number) each customer called.
SELECT organization, array_agg((extract(year FROM month) * 12 + extract(month FROM month) - 1)::int) AS months
FROM organization_months
WHERE month <= %(until)s AND (%(organization)s::text IS NULL OR organization = %(organization)s)
GROUP BY organization

-- name: first_days
-- The first day of each variant's demand, newest first, and its requests.
SELECT slug, min(day) AS day, sum(requests)::bigint AS requests FROM ({variant_requests}) AS d GROUP BY slug ORDER BY 2 DESC, 1

-- name: first_hours
-- A variant's requests by hour since its first.
SELECT (extract(epoch FROM hours.hour - first.at) / 3600)::int AS age_hours, hours.requests
FROM (SELECT min(hour) AS at FROM usage_hours WHERE slug = %(slug)s) AS first, LATERAL (
    SELECT hour, sum(requests)::bigint AS requests FROM usage_hours
    WHERE slug = %(slug)s AND hour < first.at + interval '72 hours' GROUP BY hour
) AS hours ORDER BY 1

-- name: loading
-- Per host: what loading cost in the last day. Straight from the ledger: one day of it.
SELECT host_id, count(*) AS requests, count(*) FILTER (WHERE load_seconds > 0.001) AS cold,
    sum(load_seconds) AS load_seconds, sum(run_seconds) AS run_seconds
FROM usage_records WHERE finished_at > now() - interval '1 day' AND host_id IS NOT NULL
    AND request_id >= %(oldest)s  -- leaves all older partitions out
GROUP BY host_id ORDER BY load_seconds DESC LIMIT 100

-- name: past
-- How many requests the days before the period's last have, over everything: the statistics' edition.
SELECT coalesce(sum(requests), 0)::bigint AS requests FROM scope_days WHERE scope = '' AND day < %(until)s
