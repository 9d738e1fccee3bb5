-- Begin the session of an outside issuer's token, or let the token join it.
--
-- KEYS[1]  session:index:<user_id>
-- KEYS[2]  session:user:<user_id>:<session_id>
-- KEYS[3]  session:token:<token id>
-- KEYS[4]  session:not_before:<user_id>
-- ARGV[1] to ARGV[5]  as in create.lua
-- ARGV[6]  milliseconds for which the token is remembered
-- ARGV[7]  when it was issued, in milliseconds since the epoch; whole seconds
-- ARGV[8]  the session's latest end by its token, in milliseconds since the epoch; 0 without
-- ARGV[9]  milliseconds for which the session's end is remembered
-- ARGV[10 ..]  the hash's fields and values, but for the times
--
-- Returns as create.lua, and {'revoked'} when the token was revoked.
--
-- The hash outlives its session, to tell of its end. A session that ended by itself begins anew with
-- a token that was issued afterwards: somebody has logged in again. One that somebody ended does
-- not: that shows by its mark, or by not being listed before its time. What is compared with the
-- token's whole seconds is refused when equal, as nobody knows which came first.
--
-- Atomic because a logout at the same time must not be undone, and as create.lua.
local index, hash, token, id = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
local now_ms = math.floor(now_us() / 1000)
local idle_ms, issued_at = tonumber(ARGV[5]), tonumber(ARGV[7])
local named = server.call('GET', token)
if named and named ~= id then return {'revoked'} end
local held = server.call('HMGET', hash, 'created_at', 'expires_at', 'last_seen', 'revoked')
if held[2] then
  if session_live(index, hash, id, now_ms) then
    server.call('SET', token, id, 'NX', 'PX', ARGV[6])
    return {'known', held[1], held[2]}
  end
  local ended_at = math.min(tonumber(held[2]), tonumber(held[3]) + idle_ms)
  if held[4] or now_ms < ended_at or issued_at <= ended_at then return {'ended'} end
end
local not_before = server.call('GET', KEYS[4])
if not_before and issued_at <= tonumber(not_before) then return {'ended'} end
local expires_at, latest = now_ms + tonumber(ARGV[4]), tonumber(ARGV[8])
if latest > 0 then expires_at = math.min(expires_at, latest) end
if expires_at <= now_ms then return {'ended'} end
local reply = session_begin(index, hash, id, now_ms, expires_at, idle_ms, tonumber(ARGV[2]), ARGV[3],
  {unpack(ARGV, 10)})
if reply[1] ~= 'ok' then return reply end
server.call('PEXPIREAT', hash, string.format('%.0f', expires_at + tonumber(ARGV[9])))
server.call('SET', token, id, 'PX', ARGV[6])
return reply
