-- The functions of engines. Only `push` makes more of what is there, so only `push` is refused when Redis is full.

-- ARGV engine to which the results are to go (or empty), then id, list (1 high, 2 normal, 3 low), lease, remaining, body, ...
-- -> how many became ready
local function push(K, A)
  local time, pushed, latest_of, sender = now(), 0, {}, A[1]
  local latests, payloads, written, lists, senders = {}, {}, {}, { {}, {}, {} }, {}
  probe(K, HIGH, NORMAL, LOW, PAYLOAD, TERMS, LATEST, OUTCOMES, CANCEL, BELL, GONE, SENDERS)
  local function write()
    all('HSET', K[LATEST], latests)
    all('HSET', K[SENDERS], senders)
    all('HSET', K[PAYLOAD], payloads)
    all('HSET', K[TERMS], written)
    for list = HIGH, LOW do all('LPUSH', K[list], lists[list]) end
    latests, payloads, written, lists, senders = {}, {}, {}, { {}, {}, {} }, {}
  end
  local ids, tasks, attempts = {}, {}, {}
  for i = 2, #A, 5 do
    local task, attempt = split(A[i])
    ids[#ids + 1] = A[i]
    -- What is no id is no field of any name that is, and left out.
    tasks[#ids], attempts[#ids] = task or A[i], attempt or false
  end
  local texts, known = fields(K[TERMS], ids), fields(K[LATEST], tasks)
  for n, id in ipairs(ids) do
    local task, attempt, text, latest = tasks[n], attempts[n], texts[n], known[n]
    if latest_of[task] then
      -- A second delivery of a task in one call: the first must be there before.
      write()
      text, latest = redis.call('HGET', K[TERMS], id), redis.call('HGET', K[LATEST], task)
    end
    if attempt and not text and redis.call('HEXISTS', K[OUTCOMES], id) == 0 then
      latest = tonumber(latest or 0) or 0
      if latest < attempt then
        local older = task .. ':' .. string.format('%.0f', latest)
        local terms = latest > 0 and read_terms(K, older)
        if terms and terms.hard == 0 then withdraw_ready(K, older, terms) end
        latests[#latests + 1], latests[#latests + 2] = task, attempt
      end
      latest_of[task] = true
      local at = n * 5 - 3
      local list = tonumber(A[at + 1])
      payloads[#payloads + 1], payloads[#payloads + 2] = id, A[at + 4]
      local terms = { list = list, lease = tonumber(A[at + 2]), remaining = tonumber(A[at + 3]), since = time, hard = 0 }
      written[#written + 1], written[#written + 2] = id, terms_text(terms)
      if sender ~= '' then senders[#senders + 1], senders[#senders + 2] = id, sender end
      lists[list][#lists[list] + 1] = id
      pushed = pushed + 1
    end
  end
  write()
  if pushed > 0 then ring(K) end
  return pushed
end

-- KEYS own: the engine's list of what it took, lists of results in the order to take from | ARGV max, bytes at most
-- -> garbage elements put aside, {id, result, ...}
local function take(K, A)
  local left, room, taken, aside, skips, full = tonumber(A[1]), tonumber(A[2]), {}, 0, 0, false
  probe(K, RESULTS, OUTCOMES, GONE)
  for list = OWN, #K do redis.call('LLEN', K[list]) end
  for list = OWN + 1, #K do
    while left > 0 and not full and skips < SKIPS_MAX do
      local ids = redis.call('LRANGE', K[list], -math.min(left, BODIES_PAGE), -1)
      if #ids == 0 then break end
      local bodies = fields(K[OUTCOMES], ids)
      local moved, unusable = {}, nil
      for n = #ids, 1, -1 do
        local result = split(ids[n]) and bodies[n]
        if not result then
          unusable = ids[n]
          break
        elseif #taken > 0 and #result > room then
          full = true
          break
        end
        left, room = left - 1, room - #result
        moved[#moved + 1] = ids[n]
        taken[#taken + 1], taken[#taken + 2] = ids[n], result
      end
      if #moved > 0 then
        redis.call('RPOP', K[list], #moved)
        all('LPUSH', K[OWN], moved)
      end
      if unusable then
        redis.call('RPOP', K[list])
        aside = aside + left_out(K, RESULTS, unusable)
        skips = skips + 1
      end
    end
  end
  return { aside, taken }
end

-- KEYS own: the engine's list | ARGV ids... -> how many were forgotten
local function acknowledge(K, A)
  local forgotten, tasks, attempts, over = {}, {}, {}, {}
  probe(K, OUTCOMES, PAYLOAD, LATEST, CANCEL, SENDERS)
  redis.call('LLEN', K[OWN])
  for i = 1, #A do
    -- The oldest are at the end. What another engine took is not ours to forget.
    if redis.call('LREM', K[OWN], -1, A[i]) > 0 then
      forgotten[#forgotten + 1] = A[i]
      local task, attempt = split(A[i])
      if task then tasks[#tasks + 1], attempts[#attempts + 1] = task, attempt end
    end
  end
  all('HDEL', K[PAYLOAD], forgotten)
  all('HDEL', K[OUTCOMES], forgotten)
  all('HDEL', K[SENDERS], forgotten)
  for n, latest in ipairs(fields(K[LATEST], tasks)) do
    if tonumber(latest or 0) == attempts[n] then over[#over + 1] = tasks[n] end
  end
  all('HDEL', K[LATEST], over)
  return #forgotten
end

-- KEYS own: the engine's list | ARGV max, channel of the results' bell -> elements looked at, results adopted
local function adopt_results(K, A)
  local looked, adopted = 0, 0
  probe(K, RESULTS, OUTCOMES)
  while looked < tonumber(A[1]) do
    -- The newest first, so that the oldest is again the next.
    local id = redis.call('LINDEX', K[OWN], 0)
    if not id then break end
    looked = looked + 1
    if redis.call('HEXISTS', K[OUTCOMES], id) == 1 then
      redis.call('LMOVE', K[OWN], K[RESULTS], 'LEFT', 'RIGHT')
      adopted = adopted + 1
    else
      redis.call('LPOP', K[OWN])
    end
  end
  if adopted > 0 then redis.call('PUBLISH', A[2], adopted) end
  return { looked, adopted }
end

-- Gives the results that are for an engine to all.
local function readdress(K, engine)
  local key, moved = addressed(K, engine), 0
  if redis.call('TYPE', key).ok ~= 'list' then return 0 end
  -- The newest first, so that the oldest is again the next.
  while redis.call('LMOVE', key, K[RESULTS], 'LEFT', 'RIGHT') do moved = moved + 1 end
  return moved
end

-- An engine says that it takes results, or that it will take no more; those that have fallen silent get no more, and what is
-- for them is for all.
-- ARGV engine, whether it leaves (1 or 0), channel of the results' bell -> how many results are for all now
local function listen(K, A)
  local time, moved = now(), 0
  probe(K, RESULTS, LISTENERS)
  if A[2] == '1' then
    redis.call('HDEL', K[LISTENERS], A[1])
    moved = readdress(K, A[1])
  else
    redis.call('HSET', K[LISTENERS], A[1], string.format('%.0f', time))
  end
  local known = redis.call('HGETALL', K[LISTENERS])
  for i = 1, #known, 2 do
    if time - (tonumber(known[i + 1]) or 0) >= LISTENER_SILENT then
      redis.call('HDEL', K[LISTENERS], known[i])
      moved = moved + readdress(K, known[i])
    end
  end
  if moved > 0 then redis.call('PUBLISH', A[3], moved) end
  return moved
end

-- For an engine that lost the answer of a take: gives back what it took and does not know of.
-- KEYS own: the engine's list | ARGV channel of the results' bell, ids known... -> how many went back
local function untake_others(K, A)
  local known, returned = {}, 0
  probe(K, RESULTS)
  for i = 2, #A do known[A[i]] = true end
  for _, id in ipairs(redis.call('LRANGE', K[OWN], 0, -1)) do
    if not known[id] then
      redis.call('LREM', K[OWN], 1, id)
      redis.call('RPUSH', K[RESULTS], id)
      returned = returned + 1
    end
  end
  if returned > 0 then redis.call('PUBLISH', A[1], returned) end
  return returned
end

-- ARGV max -> {id, owner, overran its hard end (1 or 0), ...}. Read only.
local function expired(K, A)
  local ended, time = {}, now()
  probe(K, OWNERS)
  local due = redis.call('ZRANGE', K[LEASES], '-inf', time, 'BYSCORE', 'LIMIT', 0, A[1], 'WITHSCORES')
  for i = 1, #due, 2 do
    ended[#ended + 1] = due[i]
    ended[#ended + 1] = redis.call('HGET', K[OWNERS], due[i]) or ''
    ended[#ended + 1] = tonumber(due[i + 1]) % 1 ~= 0 and 1 or 0
  end
  return ended
end

-- ARGV elements of the leases that are no ids -> how many were put aside
local function put_leases_aside(K, A)
  probe(K, LEASES, OWNERS, TERMS)
  for i = 1, #A do
    put_aside(K, A[i])
    redis.call('ZREM', K[LEASES], A[i])
    redis.call('HDEL', K[OWNERS], A[i])
    redis.call('HDEL', K[TERMS], A[i])
  end
  return #A
end

-- KEYS own: processing lists of some workers | ARGV how many, these workers..., ids...
-- -> {id, owner, ...} of those whose owner is none of these workers, and which are left as they are
local function drop(K, A)
  local lists, count, others = {}, tonumber(A[1]), {}
  probe(K, HIGH, NORMAL, LOW, PAYLOAD, TERMS, LATEST, LEASES, OWNERS, RESULTS, OUTCOMES, CANCEL, GONE, SENDERS)
  for i = 1, count do
    redis.call('LLEN', K[OWN + i - 1])
    lists[A[1 + i]] = K[OWN + i - 1]
  end
  for i = count + 2, #A do
    local id = A[i]
    local owner = redis.call('HGET', K[OWNERS], id)
    if owner and not lists[owner] then
      others[#others + 1] = id
      others[#others + 1] = owner
    else
      local terms = read_terms(K, id)
      if owner then redis.call('LREM', lists[owner], 1, id) end
      redis.call('ZREM', K[LEASES], id)
      redis.call('HDEL', K[OWNERS], id)
      redis.call('HDEL', K[TERMS], id)
      if terms and terms.hard == 0 then remove_from(K, terms.list, id) end
      if redis.call('HDEL', K[OUTCOMES], id) == 1 then remove_from(K, RESULTS, id) end
      redis.call('HDEL', K[PAYLOAD], id)
      redis.call('HDEL', K[SENDERS], id)
      redis.call('SREM', K[CANCEL], id)
      forget_latest(K, id)
    end
  end
  return others
end

-- ARGV whether to tell the owners of the others (1 or 0), ids... -> ids that were ready, and are gone
local function withdraw(K, A)
  local withdrawn = {}
  probe(K, HIGH, NORMAL, LOW, PAYLOAD, TERMS, LATEST, OWNERS, CANCEL, GONE, SENDERS)
  for i = 2, #A do
    local id = A[i]
    local terms = read_terms(K, id)
    if terms and terms.hard == 0 then
      withdraw_ready(K, id, terms)
      forget_latest(K, id)
      withdrawn[#withdrawn + 1] = id
    elseif A[1] == '1' and redis.call('HEXISTS', K[OWNERS], id) == 1 then
      redis.call('SADD', K[CANCEL], id)
    end
  end
  return withdrawn
end

-- The elements of lists, as a set.
local function elements(keys)
  local set = {}
  for _, key in ipairs(keys) do
    for first = 0, redis.call('LLEN', key) - 1, PAGE do
      for _, id in ipairs(redis.call('LRANGE', key, first, first + PAGE - 1)) do set[id] = true end
    end
  end
  return set
end

-- The lists that hold results: that for all, those of engines, and those for engines that listen.
local function lists_of_results(K)
  local lists, known = { K[RESULTS] }, {}
  for i = OWN, #K do
    lists[#lists + 1], known[K[i]] = K[i], true
  end
  for _, engine in ipairs(redis.call('HKEYS', K[LISTENERS])) do
    local key = addressed(K, engine)
    if not known[key] and redis.call('TYPE', key).ok == 'list' then lists[#lists + 1] = key end
  end
  return lists
end

-- Whether these lists hold as many results as there are bodies.
local function are_results_whole(K, lists)
  local length = -gone(K, RESULTS)
  for _, key in ipairs(lists) do length = length + redis.call('LLEN', key) end
  return length >= redis.call('HLEN', K[OUTCOMES])
end

-- KEYS own: lists of engines | ARGV ids... -> 1 or 0 for each. Read only.
--
-- The hashes alone prove nothing: a list may have been evicted or deleted. So the books are compared first, which costs
-- nothing; only where a list is shorter than the hashes say are its elements looked at.
local function present(K, A)
  local found, ready_set, result_set = {}, nil, nil
  local ready = { K[HIGH], K[NORMAL], K[LOW] }
  local results = lists_of_results(K)
  local ready_length = 0
  for list, key in ipairs(ready) do ready_length = ready_length + redis.call('LLEN', key) - gone(K, list) end
  local ready_whole = ready_length >= redis.call('HLEN', K[TERMS]) - redis.call('ZCARD', K[LEASES])
  local results_whole = are_results_whole(K, results)
  for i = 1, #A do
    local id, is = A[i], false
    local terms = read_terms(K, id)
    if redis.call('ZSCORE', K[LEASES], id) then
      -- In hands; the reaper sees it at the latest.
      is = true
    elseif redis.call('HEXISTS', K[OUTCOMES], id) == 1 then
      if not results_whole and not result_set then result_set = elements(results) end
      is = results_whole or result_set[id] == true
    elseif terms and terms.hard == 0 and redis.call('HEXISTS', K[PAYLOAD], id) == 1 then
      if not ready_whole and not ready_set then ready_set = elements(ready) end
      is = ready_whole or ready_set[id] == true
    end
    found[i] = is and 1 or 0
  end
  return found
end

-- A list of results may have been evicted or deleted alone: a result that is in no list gets into line again. The books are
-- compared first, as in `present`.
-- KEYS own: lists of engines | ARGV channel of the results' bell -> how many are in line again
local function restore_results(K, A)
  probe(K, RESULTS, OUTCOMES, GONE, UNREADABLE, LISTENERS)
  local restored, withdrawn, lists, bodies = 0, 0, lists_of_results(K), {}
  if are_results_whole(K, lists) then return 0 end
  local listed, waiting = elements(lists), elements({ K[RESULTS] })
  for _, id in ipairs(redis.call('HKEYS', K[OUTCOMES])) do
    bodies[id] = true
    if not split(id) then
      redis.call('HDEL', K[OUTCOMES], id)
      put_aside(K, id)
    elseif not listed[id] then
      redis.call('LPUSH', K[RESULTS], id)
      restored = restored + 1
    end
  end
  for id in pairs(waiting) do
    if not bodies[id] then withdrawn = withdrawn + 1 end
  end
  redis.call('HSET', K[GONE], RESULTS, withdrawn)
  if restored > 0 then redis.call('PUBLISH', A[1], restored) end
  return restored
end

-- -> high, normal, low, in hands, results, age of the oldest ready delivery. Read only.
local function depth(K, A)
  local answer, time, oldest = {}, now(), 0
  probe(K, PAYLOAD, TERMS, LATEST, LEASES, OWNERS, RESULTS, OUTCOMES, CANCEL, GENERATION, BELL, WORKERS, UNREADABLE, GONE)
  for list = HIGH, LOW do
    answer[list] = math.max(0, redis.call('LLEN', K[list]) - gone(K, list))
    for place = -1, -10, -1 do
      local id = redis.call('LINDEX', K[list], place)
      if not id then break end
      local terms = read_terms(K, id)
      if terms and terms.hard == 0 then
        oldest = math.max(oldest, time - terms.since)
        break
      end
    end
  end
  answer[4] = redis.call('ZCARD', K[LEASES])
  answer[5] = redis.call('HLEN', K[OUTCOMES])
  answer[6] = oldest
  return answer
end

-- The lease is as long as the task's: a worker that lives keeps it. Where that is unknown too, as long as the grace.
-- KEYS own: a worker's processing list | ARGV worker, grace -> elements that had no lease, and have one now
local function adopt_tasks(K, A)
  local adopted, time = 0, now()
  probe(K, LEASES, OWNERS, TERMS)
  for _, id in ipairs(redis.call('LRANGE', K[OWN], 0, PAGE - 1)) do
    if not split(id) then
      redis.call('LREM', K[OWN], 1, id)
      put_aside(K, id)
    elseif not redis.call('ZSCORE', K[LEASES], id) then
      local terms = read_terms(K, id)
      local ends = terms and terms.hard > 0 and lease_end(time, terms) or time + tonumber(A[2])
      redis.call('ZADD', K[LEASES], ends, id)
      redis.call('HSETNX', K[OWNERS], id, A[1])
      adopted = adopted + 1
    end
  end
  return adopted
end

-- KEYS own: where a key of the wrong type goes -> how many there were. The pool is then rebuilt from the record.
local function mend(K, A)
  local wrong = 0
  for key, expected in ipairs(TYPES) do
    local actual = redis.call('TYPE', K[key]).ok
    if actual ~= 'none' and actual ~= expected then
      redis.call('RENAME', K[key], K[OWN])
      wrong = wrong + 1
    end
  end
  for key = OWN + 1, #K do
    local actual = redis.call('TYPE', K[key]).ok
    if actual ~= 'none' and actual ~= 'list' then
      redis.call('RENAME', K[key], K[OWN])
      wrong = wrong + 1
    end
  end
  if wrong > 0 then redis.call('DEL', K[GENERATION]) end
  return wrong
end

-- ARGV age in milliseconds after which a worker is forgotten -> {worker, age, presence, ...} of the others
local function workers(K, A)
  local known, time = {}, now()
  local all = redis.call('HGETALL', K[WORKERS])
  for i = 1, #all, 2 do
    local seen, presence = string.match(all[i + 1], '^(%d+) (.*)$')
    if not seen or time - tonumber(seen) > tonumber(A[1]) then
      redis.call('HDEL', K[WORKERS], all[i])
      if not seen then put_aside(K, all[i]) end
    elseif string.sub(all[i], 1, #DRAIN) ~= DRAIN then
      known[#known + 1] = all[i]
      known[#known + 1] = time - tonumber(seen)
      known[#known + 1] = presence
    end
  end
  return known
end

-- ARGV worker, when it was started. It is forgotten as workers are.
local function ask_to_drain(K, A)
  redis.call('HSET', K[WORKERS], DRAIN .. A[1], string.format('%.0f ', now()) .. A[2])
  return 1
end

-- ARGV generation[, the one that it replaces; empty: none] -> 1 when it was written
-- Without the second, generations only go forward, so that a writer that others have overtaken undoes nothing; 0, the mark
-- of a rebuild, follows any.
local function set_generation(K, A)
  local current = string.match(generation(K), '^%d+$') or ''
  local may
  if A[2] then
    may = current == A[2]
  else
    may = current == '' or A[1] == '0' or tonumber(current) <= tonumber(A[1])
  end
  if not may then return 0 end
  redis.call('SET', K[GENERATION], A[1])
  return 1
end

-- KEYS registry of engines (its only key) | ARGV engine, age after which an engine is stale -> stale engines
local function keep_alive(K, A)
  local time = now()
  redis.call('ZADD', K[1], time, A[1])
  return redis.call('ZRANGE', K[1], '-inf', time - tonumber(A[2]), 'BYSCORE')
end
