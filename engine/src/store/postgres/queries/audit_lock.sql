-- One sealer at a time ("FMAU").
SELECT pg_advisory_xact_lock(1179468117)
