-- Begin a session: its hash, its place in the index, its first token.
--
-- KEYS[1]  session:index:<user_id>
-- KEYS[2]  session:user:<user_id>:<session_id>
-- KEYS[3]  session:token:<jti>
-- ARGV[1]  session id
-- ARGV[2]  most sessions of a user
-- ARGV[3]  what happens beyond: 'refuse' the new one, or 'end_oldest'
-- ARGV[4]  milliseconds that it lives at most, ARGV[5] without use
-- ARGV[6]  milliseconds that the token lives
-- ARGV[7 ..]  the hash's fields and values, but for the times
--
-- Returns {'ok', created_at, expires_at, ids of ended sessions ...}; {'cap'} when it is refused;
-- {'ended'} when this very session began before and has ended; {'known', created_at, expires_at}
-- when it is alive already: a repeat of the same call, or a further token of an outside issuer's
-- session, which is then known too.
--
-- The session that ends is the one that would end first without use: the one seen longest ago.
-- Expired ones are dropped first, so that none of them counts.
--
-- Atomic because logins at the same time must not exceed the cap together, and because a session
-- must not be listed without what it holds.
local index, hash, id = KEYS[1], KEYS[2], ARGV[1]
local now_ms = math.floor(now_us() / 1000)
local times = server.call('HMGET', hash, 'created_at', 'expires_at')
if times[1] then
  if not session_live(index, hash, id, now_ms) then return {'ended'} end
  server.call('SET', KEYS[3], id, 'NX', 'PX', ARGV[6])
  return {'known', times[1], times[2]}
end
server.call('ZREMRANGEBYSCORE', index, '-inf', now_ms)
local expires_at = now_ms + tonumber(ARGV[4])
local reply = {'ok', string.format('%.0f', now_ms), string.format('%.0f', expires_at)}
local beyond = server.call('ZCARD', index) - tonumber(ARGV[2]) + 1
if beyond > 0 then
  if ARGV[3] == 'refuse' then return {'cap'} end
  local ended = server.call('ZPOPMIN', index, beyond)
  for i = 1, #ended, 2 do reply[#reply + 1] = ended[i] end
end
server.call('HSET', hash, 'created_at', reply[2], 'expires_at', reply[3], 'last_seen', reply[2],
  'rotated_at', reply[2], unpack(ARGV, 7))
server.call('PEXPIREAT', hash, reply[3])
server.call('SET', KEYS[3], id, 'PX', ARGV[6])
local ends = math.min(expires_at, now_ms + tonumber(ARGV[5]))
server.call('ZADD', index, string.format('%.0f', ends), id)
if server.call('PEXPIRETIME', index) < expires_at then
  server.call('PEXPIREAT', index, reply[3])
end
return reply
