-- name: first
-- The request under a key, once it is committed.
SELECT request_id, asked FROM repeats AS k
WHERE organization = %(organization)s AND key = %(key)s
    AND EXISTS (SELECT FROM requests WHERE id = k.request_id);

-- name: claim
-- Whoever comes first gives the key its request id; the others wait here for its commit and read it.
INSERT INTO repeats (organization, key, asked, request_id)
VALUES (%(organization)s, %(key)s, %(asked)s, %(request_id)s)
ON CONFLICT (organization, key) DO UPDATE SET key = excluded.key
RETURNING request_id, asked;

-- name: forget_old
-- A day is longer than any client tries again.
DELETE FROM repeats WHERE created_at < now() - interval '1 day';
