SELECT generation FROM fm_pools WHERE pool = $1 AND server_id = $2
