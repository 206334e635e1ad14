-- Used, and nothing refers to it any more; or registered long ago, and never used.
SELECT key FROM fm_objects
WHERE CASE WHEN used THEN NOT EXISTS (SELECT 1 FROM fm_checkpoints WHERE object_key = fm_objects.key) ELSE at < ?1 END
ORDER BY key LIMIT ?2
