-- name: spending
-- What one organization, or everybody, used and spent in some days, by day and variant as far as they are asked for.
-- Each currency has its own lines.
SELECT {day} AS day, {slug} AS slug, currency, sum(requests)::bigint AS requests, sum(failed)::bigint AS failed,
    sum(images)::bigint AS images, sum(video_ms)::float8 / 1000 AS video_seconds, sum(run_ms)::float8 / 1000 AS run_seconds,
    sum(amount) AS amount
FROM usage_days
WHERE day BETWEEN %(since)s AND %(until)s AND (%(organization)s::text IS NULL OR organization = %(organization)s)
GROUP BY 1, 2, 3 ORDER BY 1 DESC, amount DESC, requests DESC, 2, 3
