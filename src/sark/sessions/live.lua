-- session_live(index, hash, id, now_ms): whether a session is alive.
--
-- index   session:index:<user_id>, ids by the time at which they end unless used, in milliseconds
-- hash    session:user:<user_id>:<session_id>
--
-- The index alone decides. What it lists beyond its time is taken off it here.
local function session_live(index, hash, id, now_ms)
  local ends = server.call('ZSCORE', index, id)
  if not ends then return false end
  if tonumber(ends) > now_ms then return true end
  session_end(index, hash, id)
  return false
end
