-- session_check(first, at): whether an access token and its session are accepted, and note the use.
--
-- KEYS[first]      session:index:<user_id>
-- KEYS[first + 1]  session:user:<user_id>:<session_id>
-- KEYS[first + 2]  session:token:<jti>
-- ARGV[at]         session id
-- ARGV[at + 1]     milliseconds without use after which a session ends
-- ARGV[at + 2]     milliseconds between two notes of its use
-- ARGV[at + 3]     network that the token is used from; empty without binding to networks
-- ARGV[at + 4]     digest of the user agent that it is used with; empty without that binding
--
-- Returns 'ok', or why not: 'ended' (the session), 'revoked' (the token), 'network', 'user_agent'.
--
-- Atomic because the use may only be noted while the session is alive: a logout between the check
-- and the note must not be undone by it.
local function session_check(first, at)
  local index, hash, id = KEYS[first], KEYS[first + 1], ARGV[at]
  local now_ms = math.floor(now_us() / 1000)
  if not session_live(index, hash, id, now_ms) then return 'ended' end
  local bound = ARGV[at + 3] ~= '' or ARGV[at + 4] ~= ''
  local held = bound and server.call('HMGET', hash, 'last_seen', 'expires_at', 'network', 'agent')
    or server.call('HMGET', hash, 'last_seen', 'expires_at')
  if not held[2] then
    -- Listed without its hash: the server has evicted that.
    session_end(index, hash, id)
    return 'ended'
  end
  if server.call('GET', KEYS[first + 2]) ~= id then return 'revoked' end
  local foreign = bound and session_foreign(held[3], held[4], ARGV[at + 3], ARGV[at + 4])
  if foreign then return foreign end
  if now_ms - tonumber(held[1]) >= tonumber(ARGV[at + 2]) then
    session_seen(index, hash, id, now_ms, tonumber(held[2]), tonumber(ARGV[at + 1]))
  end
  return 'ok'
end
