-- The ledger that several hosts share. One call of this is one operation, all of it or nothing, on keys of one slot.
--
-- KEYS[1] is the host's own: `g`, the lowest generation whose commands are still taken, and `s`, the last settlement that
-- was taken. KEYS[2] is the list of all accounts: a sorted set of their hashes, by when Redis forgets them. Then come two
-- keys for each account: a hash and the index of its holds, a sorted set by when they expire. Both are in milliseconds of
-- Redis' own clock, since those of hosts differ.
--
-- Fields of an account: u what was used (in a sliding window: ever), h what is held, o overshoot, f and l when it was
-- charged first and last, t when it was told last for how long it is kept, e how often somebody said what was used, p the
-- parts of a sliding window as `part:amount,…`, P<place> the places of destinations, and H<hold>:<place among its charges>
-- what a call holds: an amount, or, once it has expired and was charged, `x:amount:part:e`, so that a host that comes back
-- late finds it, and corrects it. Where it may owe more than it holds, since its provider writes on when its host has died,
-- W of the same is that amount, and what was charged is `x:amount:part:e:held`.
--
-- Numbers of Lua are doubles: amounts are whole and below 2^53, and what would be more is LIMIT, which fits nowhere.

local LIMIT = 9007199254740992
local MOST = LIMIT - 1
-- Tokens, at most: the arithmetic of `fits` is exact up to here.
local MOST_TOKENS = 1125899906842624
-- What a provider is taken to have written beyond what was reserved, should its host die, as in the ledger of one host.
local UNSEEN = 1024
local ANY = math.huge
local MILLION = 1000000
-- Holds that expired, of one account and in one call.
local SWEPT = 16
-- For how long it is remembered that a hold has expired, and how long a host is known: milliseconds.
local REMEMBERED = 86400000
local KNOWN = 7 * 86400000
-- How long an account may wait to be told anew for how long it is kept: milliseconds.
local TOLD = 86400000
-- For how long the list is kept behind the last account that came into it: longer than any account. Milliseconds.
local LISTED = 100 * 86400000
-- As in the ledger of one host.
local PARTS = 60
local MOST_PARTS = 122
local MOST_PLACES = 10000

local seconds = redis.call('TIME')
local clock = seconds[1] * 1000 + math.floor(seconds[2] / 1000)

local argument, key = 2, 2
local function word()
  argument = argument + 1
  return ARGV[argument]
end
local function number()
  return tonumber(word())
end

-- Never `..` nor tostring: they write fourteen digits.
local function text(amount)
  return string.format('%.0f', amount)
end

local function amount(account, tokens)
  local rest = math.fmod(tokens, MILLION)
  local millions = (tokens - rest) / MILLION
  local all = account.fixed + account.whole * tokens + account.rest * millions
    + math.ceil(account.rest * rest / MILLION)
  return math.min(all, LIMIT)
end

-- For how many tokens this much is enough; nil: not even for none.
local function fits(account, left)
  if left < account.fixed then
    return nil
  end
  local rate = account.whole * MILLION + account.rest
  if rate == 0 then
    return ANY
  end
  local tokens = math.floor((left - account.fixed) / rate * MILLION)
  if tokens >= MOST_TOKENS then
    return MOST_TOKENS
  end
  while tokens > 0 and amount(account, tokens) > left do
    tokens = tokens - 1
  end
  while amount(account, tokens + 1) <= left do
    tokens = tokens + 1
  end
  return tokens
end

-- Reads the account that is next among keys and arguments.
local function open()
  local account = { hash = KEYS[key + 1], index = KEYS[key + 2] }
  key = key + 2
  account.kind = word()
  account.part = number()
  account.lasts = word()
  account.holds = account.kind == 'h' or account.kind == 'c'
  local row = redis.call('HMGET', account.hash, 'u', 'h', 'o', 'f', 'l', 'p', 't', 'e')
  account.known = row[1] and true or false
  account.used = tonumber(row[1] or '0')
  account.held = tonumber(row[2] or '0')
  account.over = tonumber(row[3] or '0')
  account.first = tonumber(row[4] or '0')
  account.last = tonumber(row[5] or '0')
  account.told = tonumber(row[7] or '0')
  account.said = tonumber(row[8] or '0')
  account.parts = {}
  -- What is written with the rest, and whether its index may be new.
  account.fields, account.fresh = {}, account.held == 0
  if row[6] and account.part > 0 then
    for part, used in string.gmatch(row[6], '(-?%d+):(%d+)') do
      account.parts[#account.parts + 1] = { tonumber(part), tonumber(used) }
    end
  end
  return account
end

local function save(account, now)
  -- By when it was told, and not by when it was charged: one that is charged all the time is told, too.
  local due = account.told == 0 or math.abs(clock - account.told) > TOLD
  if due then
    account.told = clock
  end
  account.last = math.max(account.last, now)
  local fields = {
    'u', text(account.used), 'h', text(account.held), 'o', text(account.over),
    'f', text(account.first), 'l', text(account.last), 't', text(account.told), 'e', text(account.said),
    unpack(account.fields),
  }
  if account.part > 0 then
    local parts = {}
    for place, part in ipairs(account.parts) do
      parts[place] = text(part[1]) .. ':' .. text(part[2])
    end
    fields[#fields + 1] = 'p'
    fields[#fields + 1] = table.concat(parts, ',')
  end
  redis.call('HSET', account.hash, unpack(fields))
  if due then
    redis.call('PEXPIRE', account.hash, account.lasts)
    redis.call('ZADD', KEYS[2], text(clock + account.lasts), account.hash)
    redis.call('PEXPIRE', KEYS[2], LISTED)
  end
  if account.holds and (due or account.fresh) then
    redis.call('PEXPIRE', account.index, account.lasts)
  end
end

-- Charges what was used. Answers with the part of a sliding window in which that stands.
local function takes(account, used, now)
  account.used = math.min(MOST, account.used + used)
  if account.part == 0 or used == 0 then
    return 0
  end
  local part = math.floor(now / account.part)
  while #account.parts > MOST_PARTS do
    table.remove(account.parts, 1)
  end
  local last = account.parts[#account.parts]
  if last and last[1] >= part then
    last[2] = math.min(MOST, last[2] + used)
    return last[1]
  end
  account.parts[#account.parts + 1] = { part, used }
  return part
end

-- Takes back what was charged for a hold that had expired; not what somebody has said since that was not used.
local function gives_back(account, charged, held)
  if charged.said ~= account.said then
    return
  end
  account.used = math.max(0, account.used - charged.used)
  account.over = math.max(0, account.over - (charged.used - held))
  for _, it in ipairs(account.parts) do
    if it[1] == charged.part then
      it[2] = math.max(0, it[2] - charged.used)
    end
  end
end

local function elapsed(account, now)
  if account.first == 0 then
    return 0
  end
  return math.max(0, now - account.first)
end

local function oldest(account, now)
  return math.floor(now / account.part) - PARTS
end

-- What was used that counts now.
local function counts(account, now)
  if account.kind == 'w' then
    return elapsed(account, now)
  end
  if account.part == 0 then
    return account.used
  end
  local sum, from = 0, oldest(account, now)
  for _, part in ipairs(account.parts) do
    if part[1] >= from then
      sum = math.min(MOST, sum + part[2])
    end
  end
  return sum
end

-- When a sliding window has something again. -1: the window's end, or nobody knows.
local function resets(account, now)
  if account.part == 0 then
    return -1
  end
  local used, from = counts(account, now), oldest(account, now)
  for _, part in ipairs(account.parts) do
    if part[1] >= from then
      used = math.max(0, used - part[2])
      if used < account.limit then
        return (part[1] + PARTS + 1) * account.part
      end
    end
  end
  return -1
end

-- What a call may owe, if its host dies: an amount, where that is more than it holds.
local function owes(account, hold)
  return tonumber(redis.call('HGET', account.hash, 'W' .. hold) or '0')
end

-- Notes it. `fresh`: nothing was noted before.
local function may_owe(account, hold, held, owed, fresh)
  if account.kind ~= 'h' then
    return
  end
  if owed > held then
    account.fields[#account.fields + 1] = 'W' .. hold
    account.fields[#account.fields + 1] = text(owed)
  elseif not fresh then
    redis.call('HDEL', account.hash, 'W' .. hold)
  end
end

local function put(account, hold, held, lease)
  local fields = account.fields
  fields[#fields + 1] = 'H' .. hold
  fields[#fields + 1] = text(held)
  redis.call('ZADD', account.index, text(clock + lease), hold)
end

local function drop(account, hold)
  redis.call('HDEL', account.hash, 'H' .. hold, 'W' .. hold)
  redis.call('ZREM', account.index, hold)
end

-- What a hold has here: an amount that is held, or one that was, and what was charged for it since it had expired: an
-- amount, in which part, and behind which word of somebody's.
local function found(account, hold)
  local kept = redis.call('HGET', account.hash, 'H' .. hold)
  if not kept then
    return nil, nil, nil
  end
  local held = tonumber(kept)
  if held then
    return held, nil, nil
  end
  local used, part, said, rest = string.match(kept, '^x:(%d+):(-?%d+):(%d+)(.*)$')
  if not used then
    return nil, nil, nil
  end
  local charged = { used = tonumber(used), part = tonumber(part), said = tonumber(said) }
  return nil, tonumber(string.match(rest, '^:(%d+)$') or used), charged
end

-- Charges in full what nobody has renewed.
local function sweep(account, now)
  if not account.holds then
    return
  end
  local gone = redis.call('ZRANGEBYSCORE', account.index, '-inf', text(clock), 'LIMIT', 0, SWEPT)
  for _, hold in ipairs(gone) do
    local held = found(account, hold)
    account.changed = true
    if held then
      account.held = math.max(0, account.held - held)
    end
    if held and account.kind == 'h' then
      local used = math.max(held, owes(account, hold))
      local part = takes(account, used, now)
      local kept = 'x:' .. text(used) .. ':' .. text(part) .. ':' .. text(account.said)
      if used > held then
        account.over = math.min(MOST, account.over + used - held)
        kept = kept .. ':' .. text(held)
      end
      redis.call('HSET', account.hash, 'H' .. hold, kept)
      redis.call('ZADD', account.index, text(clock + REMEMBERED), hold)
    else
      drop(account, hold)
    end
  end
end

-- The accounts of a call, with what it is charged there.
local function charged(count, now)
  local accounts = {}
  for place = 1, count do
    local account = open()
    account.fixed = number()
    account.whole = number()
    account.rest = number()
    account.limit = number()
    account.alert = word() == '1'
    account.place = 'P' .. word()
    sweep(account, now)
    accounts[place] = account
  end
  return accounts
end

local function refused(accounts, place, needed, now)
  for _, account in ipairs(accounts) do
    if account.changed then
      save(account, now)
    end
  end
  local account = accounts[place]
  return { 'short', place - 1, counts(account, now), account.held, needed, resets(account, now) }
end

local function room(account, now)
  if account.kind == 'w' then
    return elapsed(account, now) < account.limit and ANY or nil
  end
  if account.kind == 'd' then
    local known = redis.call('HEXISTS', account.hash, account.place) == 1
    return (known or account.used < math.min(account.limit, MOST_PLACES)) and ANY or nil
  end
  return fits(account, math.max(0, account.limit - counts(account, now) - account.held))
end

local function reserve()
  local hold, now, lease, wanted, least, most, count = word(), number(), number(), number(), number(), number(), number()
  local accounts = charged(count, now)
  local all, narrowest, over = ANY, nil, {}
  local function short(place)
    local account = accounts[place]
    return refused(accounts, place, account.holds and amount(account, least) or 1, now)
  end
  for place, account in ipairs(accounts) do
    local its = room(account, now)
    if account.alert then
      if not its or its < wanted then
        over[#over + 1] = place - 1
      end
    elseif not its then
      return short(place)
    elseif its < all then
      all, narrowest = its, place
    end
  end
  if all < math.min(least, wanted) then
    return short(narrowest)
  end
  local tokens, firsts = math.min(wanted, all), {}
  local may = math.min(most, all, tokens + UNSEEN)
  for place, account in ipairs(accounts) do
    if account.first == 0 then
      account.first = now
    end
    if account.holds then
      local held = amount(account, tokens)
      account.held = math.min(MOST, account.held + held)
      put(account, hold .. ':' .. (place - 1), held, lease)
      may_owe(account, hold .. ':' .. (place - 1), held, amount(account, may), true)
    elseif account.kind == 'd' and account.used < MOST_PLACES then
      account.used = account.used + redis.call('HSETNX', account.hash, account.place, '')
    end
    save(account, now)
    firsts[place] = account.first
  end
  return { 'ok', tokens, all == ANY and -1 or all, over, firsts }
end

local function extend()
  local hold, now, lease, more, tokens, most = word(), number(), number(), number(), number(), number()
  local accounts = charged(number(), now)
  for place, account in ipairs(accounts) do
    if account.holds then
      local held, was, late = found(account, hold .. ':' .. (place - 1))
      if was then
        -- It has expired while its host was away: it is held again.
        gives_back(account, late, was)
        account.held = math.min(MOST, account.held + was)
        put(account, hold .. ':' .. (place - 1), was, lease)
        held, account.changed = was, true
      end
      account.own = held
    end
  end
  local unknown = false
  for _, account in ipairs(accounts) do
    unknown = unknown or (account.holds and not account.own)
  end
  if unknown then
    for _, account in ipairs(accounts) do
      if account.changed then
        save(account, now)
      end
    end
    return { 'unknown' }
  end
  local total, narrowest = math.min(MOST_TOKENS, tokens + more), nil
  for place, account in ipairs(accounts) do
    if not account.alert then
      local its = ANY
      if account.holds then
        local others = account.held - account.own
        its = fits(account, math.max(0, account.limit - counts(account, now) - others)) or 0
      elseif account.kind == 'w' and elapsed(account, now) >= account.limit then
        its = 0
      end
      -- Time that is over is what is told where there is nothing of several: it does not come back.
      if its < total or (its == total and its == 0 and account.kind == 'w') then
        total, narrowest = its, place
      end
    end
  end
  if total <= tokens and more > 0 and narrowest then
    local account = accounts[narrowest]
    local needed = math.max(0, amount(account, tokens + 1) - amount(account, tokens))
    for place, its in ipairs(accounts) do
      if most >= 0 and its.kind == 'h' then
        redis.call('HSET', its.hash, 'W' .. hold .. ':' .. (place - 1), text(amount(its, most)))
      end
    end
    return refused(accounts, narrowest, needed, now)
  end
  for place, account in ipairs(accounts) do
    if account.holds then
      local held = math.max(account.own, amount(account, total))
      account.held = math.min(MOST, account.held + held - account.own)
      put(account, hold .. ':' .. (place - 1), held, lease)
      if most >= 0 then
        local may = math.min(most, total + UNSEEN)
        may_owe(account, hold .. ':' .. (place - 1), held, amount(account, may), false)
      end
      save(account, now)
    end
  end
  return { 'ok', total }
end

-- Of one account of a settlement. `used` below 0: as much as is held.
local function settles(account, hold, now, held_there, used)
  if account.kind == 'h' then
    local held, was, late = found(account, hold)
    if held then
      account.held = math.max(0, account.held - held)
    elseif was then
      gives_back(account, late, was)
    end
    -- What is not known here was lost with Redis' memory: it is charged all the same.
    local had = held or was or held_there
    local its = used < 0 and math.max(had, owes(account, hold)) or used
    takes(account, its, now)
    account.over = math.min(MOST, account.over + math.max(0, its - had))
  elseif account.kind == 'c' then
    account.held = math.max(0, account.held - (found(account, hold) or 0))
  end
  if account.holds then
    drop(account, hold)
  end
  save(account, now)
end

local function settle()
  local last = tonumber(redis.call('HGET', KEYS[1], 's') or '0')
  for _ = 1, number() do
    local sequence, hold, now, count = number(), word(), number(), number()
    for place = 1, count do
      local account = open()
      local held, used = number(), number()
      -- They come in order: what is not above the last one was taken, and its answer was lost.
      if sequence > last then
        settles(account, hold .. ':' .. (place - 1), now, held, used)
      end
    end
    last = math.max(last, sequence)
  end
  redis.call('HSET', KEYS[1], 's', text(last))
  redis.call('PEXPIRE', KEYS[1], KNOWN)
  return { 'ok', last }
end

-- Renews what is held, and holds again what is not known or has expired.
local function renew()
  local now, lease = number(), number()
  for _ = 1, number() do
    local account = open()
    local hold, wanted, owed = word(), number(), number()
    local held, was, late = found(account, hold)
    if was then
      gives_back(account, late, was)
    end
    local its = math.max(held or was or 0, wanted)
    account.held = math.min(MOST, account.held + its - (held or 0))
    put(account, hold, its, lease)
    may_owe(account, hold, its, owed, false)
    save(account, now)
  end
  redis.call('PEXPIRE', KEYS[1], KNOWN)
  return { 'ok' }
end

-- Some of all accounts: their hashes, each with when it is forgotten, from this time on and behind as many that were told.
local function list()
  local from, skipped, most = word(), word(), word()
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', text(clock))
  local some = redis.call('ZRANGEBYSCORE', KEYS[2], from, '+inf', 'WITHSCORES', 'LIMIT', skipped, most)
  return { 'ok', redis.call('ZCARD', KEYS[2]), some }
end

-- What accounts have. What nobody has renewed is charged before, as whoever is next to charge them does.
local function read()
  local now, rows = number(), {}
  for place = 1, number() do
    local account = open()
    if account.known then
      sweep(account, now)
      if account.changed then
        save(account, now)
      end
      rows[place] = { counts(account, now), account.held, account.over, account.first, account.last }
    else
      -- Forgotten before its time, as by a Redis that had no memory left.
      redis.call('ZREM', KEYS[2], account.hash)
      rows[place] = {}
    end
  end
  return { 'ok', rows }
end

-- Somebody says what an account has used.
local function set()
  local now = number()
  local account = open()
  local used = number()
  if not account.known then
    return { 'none' }
  end
  if account.kind == 'c' then
    -- Of calls at the same time nothing is used up, whatever is said: it would count for ever.
    used = 0
  end
  sweep(account, now)
  account.used, account.over, account.parts = 0, 0, {}
  account.said = account.said + 1
  if account.kind == 'w' then
    account.first = used > 0 and now - used or 0
  elseif account.kind == 'd' then
    local gone = {}
    for _, field in ipairs(redis.call('HKEYS', account.hash)) do
      if string.sub(field, 1, 1) == 'P' then
        gone[#gone + 1] = field
      end
      if #gone == 1000 then
        redis.call('HDEL', account.hash, unpack(gone))
        gone = {}
      end
    end
    if #gone > 0 then
      redis.call('HDEL', account.hash, unpack(gone))
    end
  else
    takes(account, used, now)
  end
  save(account, account.last)
  return { 'ok' }
end

local operation, generation = ARGV[1], tonumber(ARGV[2])
local lowest = tonumber(redis.call('HGET', KEYS[1], 'g') or '0')
if generation < lowest then
  -- Sent over a connection that its host has given up since.
  return { 'late' }
end
if operation == 'reserve' then
  return reserve()
elseif operation == 'extend' then
  return extend()
elseif operation == 'settle' then
  return settle()
elseif operation == 'renew' then
  return renew()
elseif operation == 'list' then
  return list()
elseif operation == 'read' then
  return read()
elseif operation == 'set' then
  return set()
end
-- `fence`: nothing of older connections is taken any more.
redis.call('HSET', KEYS[1], 'g', ARGV[2])
redis.call('PEXPIRE', KEYS[1], KNOWN)
return { 'ok' }
