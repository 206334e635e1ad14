SELECT hash, flow_id, version, status, definition FROM fm_definitions WHERE hash = $1
