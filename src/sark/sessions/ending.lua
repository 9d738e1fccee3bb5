-- session_end(index, hash, id): take a session off the index, and with it what it held.
--
-- The hash of a session that an outside provider vouches for stays until its TTL: it keeps a token
-- that is still good from beginning the ended session anew.
local function session_end(index, hash, id)
  server.call('ZREM', index, id)
  if server.call('HEXISTS', hash, 'outside') == 0 then server.call('UNLINK', hash) end
end
