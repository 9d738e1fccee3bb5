-- Begin a session by a login: its hash, its place in the index, its first token.
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
-- Returns as session_begin; {'known', created_at, expires_at} when it is alive already, as the call
-- is a repeat; {'ended'} when it has ended since.
--
-- Atomic because logins at the same time must not exceed the cap together, and because a session
-- must not be listed without what it holds.
local index, hash, id = KEYS[1], KEYS[2], ARGV[1]
local now_ms = math.floor(now_us() / 1000)
local times = server.call('HMGET', hash, 'created_at', 'expires_at')
if times[1] then
  if not session_live(index, hash, id, now_ms) then return {'ended'} end
  return {'known', times[1], times[2]}
end
local reply = session_begin(index, hash, id, now_ms, now_ms + tonumber(ARGV[4]), tonumber(ARGV[5]),
  tonumber(ARGV[2]), ARGV[3], {unpack(ARGV, 7)})
if reply[1] == 'ok' then server.call('SET', KEYS[3], id, 'PX', ARGV[6]) end
return reply
