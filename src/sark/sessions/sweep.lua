-- Remove the hashes of sessions that somebody has ended.
--
-- KEYS  session:user:<user_id>:<session_id>, each of a session that is off its index for good
--
-- Returns how many were removed; as in revoke.lua, those of outside providers stay, with a mark.
-- Atomic in nothing: each key stands alone.
local removed = 0
for _, hash in ipairs(KEYS) do
  if server.call('HEXISTS', hash, 'outside') == 0 then
    removed = removed + server.call('UNLINK', hash)
  else
    server.call('HSET', hash, 'revoked', 1)
  end
end
return removed
