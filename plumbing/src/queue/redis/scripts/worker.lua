-- The functions of workers. All of them may run when Redis is full: they make room, or they keep what is there alive.

-- KEYS own: processing | ARGV worker, max, low first (1 or 0), bytes at most
-- -> generation, garbage elements put aside, {id, body, ...}
local function claim(K, A)
  local worker, left, room = A[1], tonumber(A[2]), tonumber(A[4])
  local order = A[3] == '1' and { LOW, HIGH, NORMAL } or { HIGH, NORMAL, LOW }
  probe(K, HIGH, NORMAL, LOW, PAYLOAD, TERMS, LEASES, OWNERS, BELL)
  redis.call('LLEN', K[OWN])
  local current, time = generation(K), now()
  local claimed, aside, skips, full = {}, 0, 0, false
  for _, list in ipairs(order) do
    while left > 0 and not full and skips < SKIPS_MAX do
      local id = redis.call('LINDEX', K[list], -1)
      if not id then break end
      local terms = split(id) and read_terms(K, id)
      -- An element of a delivery in hands is a double: it was withdrawn, and pushed again.
      local body = terms and terms.hard == 0 and redis.call('HGET', K[PAYLOAD], id)
      if not body then
        aside = aside + leave_out(K, list, id)
        skips = skips + 1
      elseif #claimed > 0 and #body > room then
        full = true
      else
        left, room = left - 1, room - #body
        terms.hard = time + terms.remaining
        redis.call('LMOVE', K[list], K[OWN], 'RIGHT', 'LEFT')
        redis.call('ZADD', K[LEASES], lease_end(time, terms), id)
        redis.call('HSET', K[OWNERS], id, worker)
        write_terms(K, id, terms)
        claimed[#claimed + 1] = id
        claimed[#claimed + 1] = body
      end
    end
  end
  if tonumber(A[2]) > 0 then
    local rest = redis.call('LLEN', K[HIGH]) + redis.call('LLEN', K[NORMAL]) + redis.call('LLEN', K[LOW])
    if rest > 0 then ring(K) end
  end
  return { current, aside, claimed }
end

-- ARGV worker, ids... -> generation, ids lost, ids to cancel
local function extend(K, A)
  local lost, cancelled = {}, {}
  probe(K, LEASES, OWNERS, TERMS, CANCEL)
  local current, time = generation(K), now()
  for i = 2, #A do
    local id = A[i]
    local terms = redis.call('HGET', K[OWNERS], id) == A[1] and read_terms(K, id)
    if terms and redis.call('ZSCORE', K[LEASES], id) then
      redis.call('ZADD', K[LEASES], lease_end(time, terms), id)
      if redis.call('SISMEMBER', K[CANCEL], id) == 1 then cancelled[#cancelled + 1] = id end
    else
      lost[#lost + 1] = id
    end
  end
  return { current, lost, cancelled }
end

-- KEYS own: processing | ARGV worker, channel of the results' bell, then id, result, ... -> ids refused
local function finish(K, A)
  local worker, refused, added = A[1], {}, 0
  probe(K, HIGH, NORMAL, LOW, TERMS, LEASES, OWNERS, RESULTS, OUTCOMES, CANCEL, GONE)
  redis.call('LLEN', K[OWN])
  for i = 3, #A, 2 do
    local id = A[i]
    local owner = redis.call('HGET', K[OWNERS], id)
    if owner and owner ~= worker then
      refused[#refused + 1] = id
    else
      -- The result first: whatever happens then, it is not lost. Repeated, because an answer was lost: it is there.
      if redis.call('HSETNX', K[OUTCOMES], id, A[i + 1]) == 1 then
        redis.call('LPUSH', K[RESULTS], id)
        added = added + 1
      end
      local terms = read_terms(K, id)
      redis.call('HDEL', K[TERMS], id)
      if owner then
        redis.call('LREM', K[OWN], 1, id)
        redis.call('ZREM', K[LEASES], id)
        redis.call('HDEL', K[OWNERS], id)
      elseif terms and terms.hard == 0 then
        remove_from(K, terms.list, id)
      end
      redis.call('SREM', K[CANCEL], id)
    end
  end
  if added > 0 then redis.call('PUBLISH', A[2], added) end
  return refused
end

-- Gives one delivery back, to the head of the line. Returns 1 if it is ready now.
local function give_back(K, worker, id)
  local terms = redis.call('HGET', K[OWNERS], id) == worker and read_terms(K, id)
  if not terms then return 0 end
  redis.call('LREM', K[OWN], 1, id)
  redis.call('ZREM', K[LEASES], id)
  redis.call('HDEL', K[OWNERS], id)
  if redis.call('HEXISTS', K[PAYLOAD], id) == 0 then
    -- Re-asserted after its body was lost: the record publishes it again.
    redis.call('HDEL', K[TERMS], id)
    return 0
  end
  terms.hard = 0
  write_terms(K, id, terms)
  redis.call('RPUSH', K[terms.list], id)
  return 1
end

-- KEYS own: processing | ARGV worker, ids... the first of which is to be the first in line -> how many went back
local function release(K, A)
  local released = 0
  probe(K, HIGH, NORMAL, LOW, PAYLOAD, TERMS, LEASES, OWNERS, BELL)
  redis.call('LLEN', K[OWN])
  for i = #A, 2, -1 do released = released + give_back(K, A[1], A[i]) end
  if released > 0 then ring(K) end
  return released
end

-- For a worker that lost the answer of a claim: gives back what is in its hands and it does not know of.
-- KEYS own: processing | ARGV worker, ids known... -> how many went back
local function release_others(K, A)
  local released, known = 0, {}
  probe(K, HIGH, NORMAL, LOW, PAYLOAD, TERMS, LEASES, OWNERS, BELL)
  for i = 2, #A do known[A[i]] = true end
  -- The newest first, so that the oldest is again the next.
  for _, id in ipairs(redis.call('LRANGE', K[OWN], 0, -1)) do
    if not known[id] then released = released + give_back(K, A[1], id) end
  end
  if released > 0 then ring(K) end
  return released
end

-- KEYS own: processing | ARGV worker, then id, lease, remaining, ... -> generation, ids lost, ids to cancel
local function reassert(K, A)
  local worker, lost, cancelled = A[1], {}, {}
  probe(K, HIGH, NORMAL, LOW, TERMS, LATEST, LEASES, OWNERS, OUTCOMES, CANCEL, GONE)
  redis.call('LLEN', K[OWN])
  local current, time = generation(K), now()
  for i = 2, #A, 3 do
    local id = A[i]
    local task, attempt = split(id)
    local owner = redis.call('HGET', K[OWNERS], id)
    local latest = task and tonumber(redis.call('HGET', K[LATEST], task) or 0) or 0
    if not task or (owner and owner ~= worker) or latest > attempt
      or redis.call('HEXISTS', K[OUTCOMES], id) == 1 then
      lost[#lost + 1] = id
    else
      local known = read_terms(K, id)
      local lease, remaining = tonumber(A[i + 1]), tonumber(A[i + 2])
      local terms = { list = known and known.list or NORMAL, lease = lease, remaining = remaining,
        since = known and known.since or time, hard = time + remaining }
      -- A lease that the queue still knows keeps its hard end.
      if owner and known and known.hard > 0 then terms.hard = known.hard end
      if known and known.hard == 0 then remove_from(K, known.list, id) end
      if not owner then redis.call('LPUSH', K[OWN], id) end
      redis.call('ZADD', K[LEASES], lease_end(time, terms), id)
      redis.call('HSET', K[OWNERS], id, worker)
      write_terms(K, id, terms)
      redis.call('HSET', K[LATEST], task, attempt)
      if redis.call('SISMEMBER', K[CANCEL], id) == 1 then cancelled[#cancelled + 1] = id end
    end
  end
  return { current, lost, cancelled }
end

-- ARGV worker, presence as JSON, channel of the results' bell
-- -> 1, or the text that says when the worker was started that is asked to drain under this name
local function announce(K, A)
  redis.call('HSET', K[WORKERS], A[1], string.format('%.0f ', now()) .. A[2])
  -- No result, but engines learn of the pool.
  redis.call('PUBLISH', A[3], 0)
  local asked = redis.call('HGET', K[WORKERS], DRAIN .. A[1])
  return asked and string.match(asked, '^%d+ (.*)$') or 1
end
