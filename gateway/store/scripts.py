"""What Redis does in one atomic step, in Lua (5.1, numbers are doubles). Redis 7.0 commands only.

Keys of one name share a hash tag. In a Cluster the prefix is `{tidegate}`: there all keys do.

    tidegate:{NAME}:docs    hash    KIND -> "REVISION\\nBODY"; deleted: "REVISION"
    tidegate:{NAME}:head    hash    rev: last revision; seq, hash, time: end of the audit chain
    tidegate:{NAME}:audit   stream  TIME_MS-SEQ -> b: body, h: hash
    tidegate:{NAME}:lease   hash    holder, token, expires
    tidegate:{NAME}:stream  stream  ID-0 -> r, e, s, b;  :marks hash, :used sorted set, :count number
    tidegate:{NAME}:fb      hash    "ID\\nSLOT" -> "EXPIRES UNIT\\nBODY"
                            :fbexpiry, :fbunits sorted sets, :fbdropped number
    tidegate:{decisions}:lines  stream  TIME_MS-N -> b: line;  :senders hash SENDER -> sequence, :heard sorted set
    tidegate:names          set     names with documents or audit
    tidegate:schema         number
    tidegate:life           number  see `Store.life`
    tidegate:restorer       text    token of the process that restores
    tidegate:tried          of a backup, for a moment: whether this Redis can read it
    tidegate:restoring      hash    NAME -> last revision; there while a backup is restored

Scripts that write have the last as their last key, and do nothing while it is there.
"""

from typing import Final

_NOW: Final = """
local function clock()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end
local function text(n) return string.format('%.0f', n) end
"""

_OPEN: Final = """
if redis.call('EXISTS', KEYS[#KEYS]) == 1 then return redis.error_reply('RESTORING a backup is being restored') end
"""

# The caller made the record for the end of the chain that it had read; if another was quicker, it makes it anew.
_CHAIN: Final = """
local function moved(head, seq, rev, prev)
  local h = redis.call('HMGET', head, 'seq', 'rev', 'hash')
  return (h[1] or '0') ~= seq or (h[2] or '0') ~= rev or (h[3] or '') ~= prev
end
local function chain(head, audit, time, seq, body, hash)
  redis.call('XADD', audit, time .. '-' .. seq, 'b', body, 'h', hash)
  redis.call('HSET', head, 'seq', seq, 'hash', hash, 'time', time)
end
"""

# KEYS names head docs audit lease
# ARGV name kind expected token(""=none) alive(1|0) body channel above
#      audit_body(""=none) audit_hash time_ms seq rev prev
WRITE: Final = (
    _OPEN
    + _CHAIN
    + """
local value = redis.call('HGET', KEYS[3], ARGV[2])
local revision = '0'
if value and string.find(value, '\\n', 1, true) then revision = string.match(value, '^%d+') end
if ARGV[4] ~= '' then
  local token = redis.call('HGET', KEYS[5], 'token')
  if token and tonumber(token) > tonumber(ARGV[4]) then return {'fenced', token} end
end
if ARGV[3] ~= '' and ARGV[3] ~= revision then return {'stale', value or ''} end
if ARGV[5] == '0' and revision == '0' then return {'ok', 0} end
if ARGV[9] ~= '' then
  if moved(KEYS[2], ARGV[12], ARGV[13], ARGV[14]) then return {'moved'} end
  chain(KEYS[2], KEYS[4], ARGV[11], string.format('%d', tonumber(ARGV[12]) + 1), ARGV[9], ARGV[10])
end
redis.call('SADD', KEYS[1], ARGV[1])
local short = tonumber(ARGV[8]) - tonumber(redis.call('HGET', KEYS[2], 'rev') or '0')
local after = redis.call('HINCRBY', KEYS[2], 'rev', math.max(short, 0) + 1)
local stored = string.format('%.0f', after)
if ARGV[5] == '1' then stored = stored .. '\\n' .. ARGV[6] end
redis.call('HSET', KEYS[3], ARGV[2], stored)
redis.call('PUBLISH', ARGV[7], ARGV[1])
return {'ok', after}
"""
)

# KEYS head docs, of one name after the other -> per name: revision of its last write, then KIND, revision per document
VIEW: Final = """
local found = {}
for i = 1, #KEYS, 2 do
  local one = {redis.call('HGET', KEYS[i], 'rev') or '0'}
  local docs = redis.call('HGETALL', KEYS[i + 1])
  for j = 1, #docs, 2 do
    local revision = string.match(docs[j + 1], '^(%d+)\\n')
    if revision then
      one[#one + 1] = docs[j]
      one[#one + 1] = revision
    end
  end
  found[#found + 1] = one
end
return found
"""

# KEYS names head audit; ARGV name body hash time_ms seq rev prev
AUDIT: Final = (
    _OPEN
    + _CHAIN
    + """
if moved(KEYS[2], ARGV[5], ARGV[6], ARGV[7]) then return {'moved'} end
redis.call('SADD', KEYS[1], ARGV[1])
chain(KEYS[2], KEYS[3], ARGV[4], string.format('%d', tonumber(ARGV[5]) + 1), ARGV[2], ARGV[3])
return {'ok'}
"""
)

# KEYS lease; ARGV holder ttl_ms. The time as a floor: tokens go on growing even after Redis lost its data.
ACQUIRE: Final = (
    _OPEN
    + _NOW
    + """
local now = clock()
local l = redis.call('HMGET', KEYS[1], 'holder', 'token', 'expires')
if l[1] and tonumber(l[3]) > now and l[1] ~= ARGV[1] then return {} end
local token = math.max(tonumber(l[2] or '0') + 1, now)
local expires = now + tonumber(ARGV[2])
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'token', text(token), 'expires', text(expires))
return {token, expires}
"""
)

# KEYS lease; ARGV holder token ttl_ms (0 = release)
RENEW: Final = (
    _OPEN
    + _NOW
    + """
local l = redis.call('HMGET', KEYS[1], 'holder', 'token')
if l[1] ~= ARGV[1] or l[2] ~= ARGV[2] then return {} end
local expires = 0
if ARGV[3] ~= '0' then expires = clock() + tonumber(ARGV[3]) end
redis.call('HSET', KEYS[1], 'expires', text(expires))
return {tonumber(l[2]), expires}
"""
)

# KEYS restorer; ARGV token ttl_ms
HOLD: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

# KEYS lease
HELD: Final = (
    _NOW
    + """
local l = redis.call('HMGET', KEYS[1], 'holder', 'token', 'expires')
if not l[1] or tonumber(l[3]) <= clock() then return {} end
return {l[1], tonumber(l[2]), tonumber(l[3])}
"""
)

# KEYS stream marks used count; ARGV replica epoch sequence body rows_max marks_max window. See records.admit.
APPEND: Final = (
    _OPEN
    + """
local field = ARGV[1] .. '\\n' .. ARGV[2]
local mark = redis.call('HGET', KEYS[2], field)
local window, sequence = tonumber(ARGV[7]), tonumber(ARGV[3])
if not mark then
  mark = ARGV[3] .. ':1'
else
  local colon = string.find(mark, ':', 1, true)
  local head, bits = string.sub(mark, 1, colon - 1), string.sub(mark, colon + 1)
  local ahead = sequence - tonumber(head)
  if ahead > 0 then
    bits = string.sub('1' .. string.rep('0', math.min(ahead - 1, window)) .. bits, 1, window)
    mark = ARGV[3] .. ':' .. bits
  else
    local back = -ahead
    if back >= window then return 0 end
    if #bits < back + 1 then bits = bits .. string.rep('0', back + 1 - #bits) end
    if string.sub(bits, back + 1, back + 1) == '1' then return 0 end
    mark = head .. ':' .. string.sub(bits, 1, back) .. '1' .. string.sub(bits, back + 2)
  end
end
local id = redis.call('INCR', KEYS[4])
redis.call('HSET', KEYS[2], field, mark)
redis.call('ZADD', KEYS[3], id, field)
while redis.call('ZCARD', KEYS[3]) > tonumber(ARGV[6]) do
  redis.call('HDEL', KEYS[2], redis.call('ZPOPMIN', KEYS[3])[1])
end
redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[5], string.format('%.0f', id) .. '-0',
  'r', ARGV[1], 'e', ARGV[2], 's', ARGV[3], 'b', ARGV[4])
return 1
"""
)

_FORGET: Final = """
local function forget(field)
  local value = redis.call('HGET', KEYS[1], field)
  redis.call('HDEL', KEYS[1], field)
  redis.call('ZREM', KEYS[2], field)
  local unit = value and string.match(value, '^%d+ ([^\\n]*)\\n')
  if unit and unit ~= '' then redis.call('ZREM', KEYS[3], unit .. '\\n' .. field) end
end
"""

# KEYS fb fbexpiry fbunits fbdropped stream count; ARGV rows_max entries_max entry_bytes
#      then field unit body expires_ms note per row
FEEDBACK: Final = (
    _OPEN
    + _NOW
    + _FORGET
    + """
local now = clock()
for _, field in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', text(now), 'LIMIT', 0, 1000)) do forget(field) end
local outcomes, told, size = {}, {}, -1
local function tell()
  if #told == 0 then return end
  redis.call('XADD', KEYS[5], 'MAXLEN', ARGV[2], text(redis.call('INCR', KEYS[6])) .. '-0',
    'r', '', 'e', 0, 's', 0, 'b', table.concat(told, '\\n'))
  told = {}
end
for i = 4, #ARGV, 5 do
  local field, unit, body, expires, note = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local old = redis.call('HGET', KEYS[1], field)
  if old and tonumber(string.match(old, '^%d+')) <= now then forget(field); old = false end
  local before = old and string.sub(old, string.find(old, '\\n', 1, true) + 1)
  if tonumber(expires) <= now then
    outcomes[#outcomes + 1] = {'expired'}
  elseif before == body then
    outcomes[#outcomes + 1] = {'duplicate'}
  else
    if old then forget(field) end
    redis.call('HSET', KEYS[1], field, expires .. ' ' .. unit .. '\\n' .. body)
    redis.call('ZADD', KEYS[2], expires, field)
    if unit ~= '' then redis.call('ZADD', KEYS[3], 0, unit .. '\\n' .. field) end
    outcomes[#outcomes + 1] = old and {'replaced', before} or {'new'}
    if note ~= '' then
      local line = old and note .. '\\t' .. before or note
      size = size + #line + 1
      if size > tonumber(ARGV[3]) then tell(); size = #line end
      told[#told + 1] = line
    end
  end
end
tell()
while redis.call('HLEN', KEYS[1]) > tonumber(ARGV[1]) do
  forget(redis.call('ZRANGE', KEYS[2], 0, 0)[1])
  redis.call('INCR', KEYS[4])
end
return outcomes
"""
)

# KEYS fb fbexpiry fbunits; ARGV unit
ERASE: Final = (
    _OPEN
    + _FORGET
    + """
local found = redis.call('ZRANGEBYLEX', KEYS[3], '[' .. ARGV[1] .. '\\n', '(' .. ARGV[1] .. '\\11')
for _, member in ipairs(found) do forget(string.sub(member, #ARGV[1] + 2)) end
return #found
"""
)

# KEYS fb; ARGV field
KEPT: Final = (
    _NOW
    + """
local value = redis.call('HGET', KEYS[1], ARGV[1])
if not value or tonumber(string.match(value, '^%d+')) <= clock() then return false end
return value
"""
)

# KEYS lines senders heard; ARGV sender sequence lines_max senders_max, then lines. What may fail for a key that is not
# ours fails before the first line, and the mark comes last: lines are never there without being known to be.
LINES: Final = (
    _NOW
    + """
local last = redis.call('HGET', KEYS[2], ARGV[1])
if last and tonumber(last) >= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[3], clock(), ARGV[1])
for i = 5, #ARGV do redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', 'b', ARGV[i]) end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
while redis.call('ZCARD', KEYS[3]) > tonumber(ARGV[4]) do
  redis.call('HDEL', KEYS[2], redis.call('ZPOPMIN', KEYS[3])[1])
end
return 1
"""
)

# KEYS lines; ARGV start needle rows_max bytes_max -> id of the last line that was looked at (""=none), then id, line of
# those that hold the needle
SEARCH: Final = """
local found, last, bytes = {''}, '', 0
for _, row in ipairs(redis.call('XREVRANGE', KEYS[1], ARGV[1], '-', 'COUNT', ARGV[3])) do
  last = row[1]
  local line = row[2][2]
  if string.find(line, ARGV[2], 1, true) then
    found[#found + 1] = last
    found[#found + 1] = line
    bytes = bytes + #line
    if bytes > tonumber(ARGV[4]) then break end
  end
end
found[1] = last
return found
"""
