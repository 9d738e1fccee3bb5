-- Note that a session is in use.
--
-- KEYS[1]  session:index:<user_id>
-- KEYS[2]  session:user:<user_id>:<session_id>
-- ARGV[1]  session id
-- ARGV[2]  milliseconds without use after which it ends
-- ARGV[3]  milliseconds between two notes of its use
--
-- Returns 'ok', or 'ended'. Atomic because a session that was revoked meanwhile must not
-- come back.
local now_ms = math.floor(now_us() / 1000)
if not session_live(KEYS[1], KEYS[2], ARGV[1], now_ms) then return 'ended' end
local held = server.call('HMGET', KEYS[2], 'last_seen', 'expires_at')
if not held[2] then
  session_end(KEYS[1], KEYS[2], ARGV[1])
  return 'ended'
end
if now_ms - tonumber(held[1]) >= tonumber(ARGV[3]) then
  session_seen(KEYS[1], KEYS[2], ARGV[1], now_ms, tonumber(held[2]), tonumber(ARGV[2]))
end
return 'ok'
