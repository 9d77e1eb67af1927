-- Presence and routes.
do
  local function now_us()
    local time = redis.call('TIME')
    return time[1] * 1000000 + time[2]
  end

  local function now_ms()
    return math.floor(now_us() / 1000)
  end

  local function text(number)
    return string.format('%.0f', number)
  end

  ------------------------------------------------------------------------------------------------------------------
  -- Routes: a sorted set per room of the pods that have it, by the time their place ends.

  -- Puts a pod on the routes of rooms, or keeps it there.
  -- KEYS: the routes of the rooms. ARGV: pod, lease in ms. Answers for each room whether the pod had no place there.
  redis.register_function('darda_relay_register@', function(keys, args)
    local pod, lease, now = args[1], tonumber(args[2]), now_ms()
    local fresh = {}
    for i, key in ipairs(keys) do
      redis.call('ZREMRANGEBYSCORE', key, '-inf', text(now))
      fresh[i] = redis.call('ZADD', key, text(now + lease), pod)
      redis.call('PEXPIRE', key, lease)
    end
    return fresh
  end)

  -- Takes a pod off the routes of rooms. KEYS: the routes. ARGV: pod.
  redis.register_function('darda_relay_unregister@', function(keys, args)
    for _, key in ipairs(keys) do
      redis.call('ZREM', key, args[1])
    end
    return #keys
  end)

  -- The pods that have each of the rooms now. KEYS: the routes.
  redis.register_function{
    function_name = 'darda_relay_routes@',
    callback = function(keys)
      local now, routes = now_ms(), {}
      for i, key in ipairs(keys) do
        routes[i] = redis.call('ZRANGEBYSCORE', key, '(' .. text(now), '+inf')
      end
      return routes
    end,
    flags = { 'no-writes' },
  }

  ------------------------------------------------------------------------------------------------------------------
  -- Presence. Pods report under leases what they have; a lease that has ended is never renewed. With the prefix P:
  --   P leases            sorted set of leases by the time they end (ms)
  --   P swept:LEASE       a lease that ended and whose users were taken away in good order
  --   P lease:LEASE       set of the users with sessions under the lease
  --   P user:USER         hash: LEASE -> 'sessions idle'; 'seen' -> when the user was last online (ms)
  --   P user:USER:rooms   hash: room -> the leases under which the user shows there, with commas
  --   P user:USER:gone    set of rooms that were told that the user left after Redis had lost that they were there
  --   P room:ROOM         sorted set of the users that show in the room, all with score 0: in order of name
  -- All functions take P as their only key and make the others from it.

  local DAY = 24 * 3600 * 1000
  -- How long it is known when somebody was last online.
  local SEEN_FOR = 7 * DAY
  -- Pods touch what they have more often.
  local KEPT_FOR = DAY
  -- A pod that was away for longer takes all for lost.
  local SWEPT_FOR = DAY
  -- All pods tell again within seconds what Redis has lost.
  local GONE_FOR = 60 * 1000
  -- Who leaves a room stays visible in at most so many others without a change.
  local ELSEWHERE_MAX = 50
  -- Users and rooms that one call of a sweep looks at, roughly.
  local SWEEP_MAX = 250

  local function ends(prefix, lease)
    return tonumber(redis.call('ZSCORE', prefix .. 'leases', lease) or 0)
  end

  -- Sessions and idle sessions of a user, from the flat fields of their hash; those under one lease can be left out.
  local function count(fields, except)
    local sessions, idle = 0, 0
    for i = 1, #fields, 2 do
      if fields[i] ~= 'seen' and fields[i] ~= except then
        local n, m = string.match(fields[i + 1], '^(%d+) (%d+)$')
        sessions, idle = sessions + tonumber(n), idle + tonumber(m)
      end
    end
    return sessions, idle
  end

  local function status(sessions, idle)
    if sessions == 0 then
      return 'offline'
    elseif sessions == idle then
      return 'away'
    end
    return 'online'
  end

  local function has(leases, lease)
    return string.find(',' .. leases .. ',', ',' .. lease .. ',', 1, true) ~= nil
  end

  local function without(leases, lease)
    local rest = {}
    for other in string.gmatch(leases, '[^,]+') do
      if other ~= lease then
        rest[#rest + 1] = other
      end
    end
    return table.concat(rest, ',')
  end

  -- What one lease says of one user.
  --   report.sessions, report.idle: how many there are under the lease
  --   report.candidates, report.most: sessions to add, as far as the user then has at most so many
  --   report.told: the status the pod knows of, for when Redis has lost it; '' if it knows none; '?' if it does not know
  --     what became of its last report: then the status is told again
  --   report.rooms: flat list of room, '1' if the user shows there under the lease, '1' if the room was told so
  -- Announcements go to the end of `told`: {room, user, status, last seen or ''}; keys whose lifetime begins again go
  -- to the set `kept`. Answers how many candidates were added, and the user's status.
  local function apply(prefix, lease, user, report, now, told, kept)
    local key = prefix .. 'user:' .. user
    local rooms_key = key .. ':rooms'
    local fields = redis.call('HGETALL', key)
    local before = status(count(fields))
    local is_uncertain = report.told == '?'
    if before == 'offline' and report.told ~= '' and not is_uncertain then
      before = report.told
    end

    local admitted, sessions = 0, report.sessions
    if report.candidates > 0 then
      local others = 0
      for i = 1, #fields, 2 do
        if fields[i] ~= 'seen' and fields[i] ~= lease and ends(prefix, fields[i]) > now then
          others = others + tonumber(string.match(fields[i + 1], '^%d+'))
        end
      end
      admitted = math.max(0, math.min(report.candidates, report.most - others - sessions))
      sessions = sessions + admitted
    end
    local other_sessions, other_idle = count(fields, lease)
    local after = status(other_sessions + sessions, other_idle + report.idle)

    if sessions > 0 then
      redis.call('HSET', key, lease, text(sessions) .. ' ' .. text(report.idle))
      if redis.call('SADD', prefix .. 'lease:' .. lease, user) == 1 then
        kept[prefix .. 'lease:' .. lease] = true
      end
    else
      redis.call('HDEL', key, lease)
      redis.call('SREM', prefix .. 'lease:' .. lease, user)
    end
    if after == 'offline' then
      if before ~= 'offline' then
        redis.call('HSET', key, 'seen', text(now))
      end
      redis.call('PEXPIRE', key, SEEN_FOR)
    else
      redis.call('PEXPIRE', key, KEPT_FOR)
    end

    local announced, has_left = {}, false
    local function announce(room, what, seen)
      announced[room] = true
      told[#told + 1] = { room, user, what, seen }
    end
    local function enter(room, was_told)
      local leases = redis.call('HGET', rooms_key, room)
      if not leases then
        redis.call('HSET', rooms_key, room, lease)
      end
      -- A room that is there without having been told is one whose answer was lost. One that was told may have been
      -- told otherwise since, by a pod that came back earlier.
      if not was_told and (not leases or leases == lease)
        or was_told and not leases and redis.call('SREM', key .. ':gone', room) == 1 then
        announce(room, after, '')
      end
      if leases and not has(leases, lease) then
        redis.call('HSET', rooms_key, room, leases .. ',' .. lease)
      end
      redis.call('ZADD', prefix .. 'room:' .. room, 0, user)
      kept[prefix .. 'room:' .. room], kept[rooms_key] = true, true
    end
    local function leave(room, leases, was_told)
      local rest = without(leases or '', lease)
      if rest ~= '' then
        redis.call('HSET', rooms_key, room, rest)
        return
      end
      redis.call('HDEL', rooms_key, room)
      redis.call('ZREM', prefix .. 'room:' .. room, user)
      if leases or was_told then
        has_left = true
        announce(room, 'offline', text(now))
      end
      if not leases and was_told then
        redis.call('SADD', key .. ':gone', room)
        redis.call('PEXPIRE', key .. ':gone', GONE_FOR)
      end
    end

    local rooms = report.rooms
    for i = 1, #rooms, 3 do
      local room, was_told = rooms[i], rooms[i + 2] == '1'
      if rooms[i + 1] == '1' and sessions > 0 then
        enter(room, was_told)
      else
        leave(room, redis.call('HGET', rooms_key, room), was_told)
      end
    end
    if sessions == 0 then
      local all = redis.call('HGETALL', rooms_key)
      for i = 1, #all, 2 do
        if has(all[i + 1], lease) then
          leave(all[i], all[i + 1], false)
        end
      end
    end

    local is_news = after ~= before or is_uncertain
    if after ~= 'offline' and (is_news or has_left) then
      -- A signal to a client does not name the room: who shares another with the user must not take them for gone.
      local most = is_news and math.huge or ELSEWHERE_MAX
      for _, room in ipairs(redis.call('HKEYS', rooms_key)) do
        if most == 0 then
          break
        elseif not announced[room] then
          announce(room, after, '')
          most = most - 1
        end
      end
    end
    return admitted, after
  end

  -- Begins a lease. KEYS: P. ARGV: lease, its length in ms, the lease before it or ''.
  -- Answers 1 if Redis knows what became of the lease before, and 0 if it has lost that.
  redis.register_function{
    function_name = 'darda_presence_open@',
    callback = function(keys, args)
      local prefix, before = keys[1], args[3]
      local is_known = before == '' or ends(prefix, before) > 0
        or redis.call('EXISTS', prefix .. 'swept:' .. before) == 1
      redis.call('ZADD', prefix .. 'leases', text(now_ms() + tonumber(args[2])), args[1])
      redis.call('PEXPIRE', prefix .. 'leases', KEPT_FOR)
      return is_known and 1 or 0
    end,
    flags = { 'allow-oom' },
  }

  -- Renews a lease. KEYS: P. ARGV: lease, its length in ms.
  -- Answers whether it has not ended (1 or 0), and some leases that have ended and must be swept.
  redis.register_function{
    function_name = 'darda_presence_renew@',
    callback = function(keys, args)
      local prefix, lease, now = keys[1], args[1], now_ms()
      if ends(prefix, lease) <= now then
        return { 0, {} }
      end
      redis.call('ZADD', prefix .. 'leases', text(now + tonumber(args[2])), lease)
      redis.call('PEXPIRE', prefix .. 'leases', KEPT_FOR)
      redis.call('PEXPIRE', prefix .. 'lease:' .. lease, KEPT_FOR)
      return { 1, redis.call('ZRANGEBYSCORE', prefix .. 'leases', '-inf', text(now), 'LIMIT', 0, 16) }
    end,
    flags = { 'allow-oom' },
  }

  -- Ends a lease now; then it can be swept. KEYS: P. ARGV: lease.
  redis.register_function{
    function_name = 'darda_presence_end@',
    callback = function(keys, args)
      return redis.call('ZADD', keys[1] .. 'leases', 'XX', 'CH', text(now_ms()), args[1])
    end,
    flags = { 'allow-oom' },
  }

  -- Says what a lease has. KEYS: P. ARGV: lease, then for each user: name, sessions, idle ones, candidates, most,
  -- the status that was told, number of rooms, and for each room: name, '1' if the user shows there, '1' if the room was told so.
  -- Answers 1 (0: the lease has ended and nothing was done), the version of the announcements, for each user how many
  -- candidates were added and the status, and the announcements.
  redis.register_function('darda_presence_report@', function(keys, args)
    local prefix, lease, version = keys[1], args[1], now_us()
    local now = math.floor(version / 1000)
    if ends(prefix, lease) <= now then
      return { 0, 0, {}, {} }
    end
    local users, told, kept, at = {}, {}, {}, 2
    while at <= #args do
      local user, rooms_len = args[at], tonumber(args[at + 6])
      local report = {
        sessions = tonumber(args[at + 1]),
        idle = tonumber(args[at + 2]),
        candidates = tonumber(args[at + 3]),
        most = tonumber(args[at + 4]),
        told = args[at + 5],
        rooms = {},
      }
      for i = 1, 3 * rooms_len do
        report.rooms[i] = args[at + 6 + i]
      end
      users[#users + 1] = { apply(prefix, lease, user, report, now, told, kept) }
      at = at + 7 + 3 * rooms_len
    end
    for key in pairs(kept) do
      redis.call('PEXPIRE', key, KEPT_FOR)
    end
    return { 1, version, users, told }
  end)

  -- Takes away some of what a lease that has ended had; whoever calls it, each user is taken away once.
  -- KEYS: P. ARGV: lease. Answers whether there is more (1 or 0), the version of the announcements, and those.
  redis.register_function{
    function_name = 'darda_presence_sweep@',
    callback = function(keys, args)
      local prefix, lease, version = keys[1], args[1], now_us()
      local now, told = math.floor(version / 1000), {}
      local ended = ends(prefix, lease)
      if ended == 0 or ended > now then
        return { 0, version, told }
      end
      local nothing = { sessions = 0, idle = 0, candidates = 0, most = 0, told = '', rooms = {} }
      local left = SWEEP_MAX
      while left > 0 do
        local user = redis.call('SRANDMEMBER', prefix .. 'lease:' .. lease)
        if not user then
          redis.call('ZREM', prefix .. 'leases', lease)
          redis.call('SET', prefix .. 'swept:' .. lease, 1, 'PX', SWEPT_FOR)
          return { 0, version, told }
        end
        left = left - 1 - redis.call('HLEN', prefix .. 'user:' .. user .. ':rooms')
        apply(prefix, lease, user, nothing, now, told, {})
      end
      return { 1, version, told }
    end,
    flags = { 'allow-oom' },
  }

  -- The states of users. KEYS: P. ARGV: users. Answers for each the status and when they were last online (ms, or 0).
  redis.register_function{
    function_name = 'darda_presence_status@',
    callback = function(keys, args)
      local prefix, now = keys[1], now_ms()
      local known, states = {}, {}
      local function end_of(lease)
        known[lease] = known[lease] or ends(prefix, lease)
        return known[lease]
      end
      for i, user in ipairs(args) do
        local fields = redis.call('HGETALL', prefix .. 'user:' .. user)
        local alive, seen = {}, 0
        for f = 1, #fields, 2 do
          local name, value = fields[f], fields[f + 1]
          if name == 'seen' then
            seen = math.max(seen, tonumber(value))
          elseif end_of(name) > now then
            alive[#alive + 1] = name
            alive[#alive + 1] = value
          else
            seen = math.max(seen, end_of(name))
          end
        end
        states[i] = { status(count(alive)), seen }
      end
      return states
    end,
    flags = { 'no-writes' },
  }

  -- Who is in rooms. KEYS: P. ARGV: for each room: name, most. Answers for each how many there are, and some of them.
  redis.register_function{
    function_name = 'darda_presence_present@',
    callback = function(keys, args)
      local rooms = {}
      for i = 1, #args, 2 do
        local key = keys[1] .. 'room:' .. args[i]
        local users = {}
        if tonumber(args[i + 1]) > 0 then
          users = redis.call('ZRANGE', key, 0, tonumber(args[i + 1]) - 1)
        end
        rooms[#rooms + 1] = { redis.call('ZCARD', key), users }
      end
      return rooms
    end,
    flags = { 'no-writes' },
  }
end
