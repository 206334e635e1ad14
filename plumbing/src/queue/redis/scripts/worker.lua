-- The functions of workers. All of them may run when Redis is full: they make room, or they keep what is there alive.

-- KEYS own: processing | ARGV worker, max, low first (1 or 0), bytes at most
-- -> generation, garbage elements put aside, {id, body, ...}
local function claim(K, A)
  local worker, left, room = A[1], tonumber(A[2]), tonumber(A[4])
  local order = A[3] == '1' and { LOW, HIGH, NORMAL } or { HIGH, NORMAL, LOW }
  local waiting = 0
  for list = HIGH, LOW do waiting = waiting + redis.call('LLEN', K[list]) end
  if waiting == 0 then
    unring(K)
    return { generation(K), 0, {} }
  end
  probe(K, PAYLOAD, TERMS, LEASES, OWNERS, BELL)
  redis.call('LLEN', K[OWN])
  local current, time = generation(K), now()
  local claimed, aside, skips, full = {}, 0, 0, false
  for _, list in ipairs(order) do
    while left > 0 and not full and skips < SKIPS_MAX do
      -- The next is the last.
      local ids = redis.call('LRANGE', K[list], -math.min(left, BODIES_PAGE), -1)
      if #ids == 0 then break end
      local texts, bodies = fields(K[TERMS], ids), fields(K[PAYLOAD], ids)
      local taken, leases, owners, written, seen, unusable = {}, {}, {}, {}, {}, nil
      for n = #ids, 1, -1 do
        local id = ids[n]
        local terms = split(id) and parse_terms(texts[n])
        -- An element of a delivery in hands is a double: it was withdrawn, and pushed again.
        local body = terms and terms.hard == 0 and not seen[id] and bodies[n]
        if not body then
          unusable = id
          break
        elseif #claimed > 0 and #body > room then
          full = true
          break
        end
        left, room, seen[id] = left - 1, room - #body, true
        terms.hard = time + terms.remaining
        taken[#taken + 1] = id
        leases[#leases + 1], leases[#leases + 2] = lease_end(time, terms), id
        owners[#owners + 1], owners[#owners + 2] = id, worker
        written[#written + 1], written[#written + 2] = id, terms_text(terms)
        claimed[#claimed + 1], claimed[#claimed + 2] = id, body
      end
      if #taken > 0 then
        redis.call('RPOP', K[list], #taken)
        all('LPUSH', K[OWN], taken)
        all('ZADD', K[LEASES], leases)
        all('HSET', K[OWNERS], owners)
        all('HSET', K[TERMS], written)
      end
      if unusable then
        redis.call('RPOP', K[list])
        aside = aside + left_out(K, list, unusable)
        skips = skips + 1
      end
    end
  end
  if tonumber(A[2]) > 0 then
    local rest = redis.call('LLEN', K[HIGH]) + redis.call('LLEN', K[NORMAL]) + redis.call('LLEN', K[LOW])
    if rest > 0 then ring(K) else unring(K) end
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

-- Whether an engine takes its results, and has room for more.
local function is_heard(K, engine)
  local heard = tonumber(redis.call('HGET', K[LISTENERS], engine) or 0) or 0
  if now() - heard >= LISTENER_SILENT then return false end
  local waiting = redis.pcall('LLEN', addressed(K, engine))
  return type(waiting) == 'number' and waiting < ADDRESSED_MAX
end

-- Puts results in line, each for the engine that sent the task if it is there, else for all: it has the execution at hand.
local function hand_over(K, ids, bell)
  local for_all, lists = {}, {}
  for n, sender in ipairs(fields(K[SENDERS], ids)) do
    if sender and lists[sender] == nil then lists[sender] = is_heard(K, sender) and {} end
    local list = sender and lists[sender] or for_all
    list[#list + 1] = ids[n]
  end
  all('LPUSH', K[RESULTS], for_all)
  if #for_all > 0 then redis.call('PUBLISH', bell, #for_all) end
  for engine, list in pairs(lists) do
    if list then
      all('LPUSH', addressed(K, engine), list)
      redis.call('PUBLISH', bell, 'for ' .. engine)
    end
  end
end

-- KEYS own: processing | ARGV worker, channel of the results' bell, then id, result, ... -> ids refused
local function finish(K, A)
  local worker, refused, ids, bodies, seen = A[1], {}, {}, {}, {}
  probe(K, HIGH, NORMAL, LOW, TERMS, LEASES, OWNERS, RESULTS, OUTCOMES, CANCEL, GONE, SENDERS, LISTENERS)
  redis.call('LLEN', K[OWN])
  for i = 3, #A, 2 do
    if not seen[A[i]] then
      ids[#ids + 1], seen[A[i]] = A[i], true
      bodies[#ids] = A[i + 1]
    end
  end
  local owners, texts = fields(K[OWNERS], ids), fields(K[TERMS], ids)
  local added, done, owned, ready = {}, {}, {}, {}
  for n, id in ipairs(ids) do
    if owners[n] and owners[n] ~= worker then
      refused[#refused + 1] = id
    else
      -- The result first: whatever happens then, it is not lost. Repeated, because an answer was lost: it is there.
      if redis.call('HSETNX', K[OUTCOMES], id, bodies[n]) == 1 then added[#added + 1] = id end
      done[#done + 1] = id
      if owners[n] then
        owned[#owned + 1] = id
      else
        local terms = parse_terms(texts[n])
        if terms and terms.hard == 0 then ready[#ready + 1] = { terms.list, id } end
      end
    end
  end
  hand_over(K, added, A[2])
  all('HDEL', K[TERMS], done)
  -- The oldest are at the end, and mostly the first to end.
  for _, id in ipairs(owned) do redis.call('LREM', K[OWN], -1, id) end
  all('ZREM', K[LEASES], owned)
  all('HDEL', K[OWNERS], owned)
  for _, one in ipairs(ready) do remove_from(K, one[1], one[2]) end
  if redis.call('SCARD', K[CANCEL]) > 0 then all('SREM', K[CANCEL], done) end
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
