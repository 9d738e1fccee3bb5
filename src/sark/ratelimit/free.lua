-- ratelimit_free(keys): refuse keys that MGET found empty and that are there: they hold no string,
-- are somebody else's, and would be overwritten.
local function ratelimit_free(keys)
  if server.call('EXISTS', unpack(keys)) > 0 then
    error({err = 'WRONGTYPE one of ' .. table.concat(keys, ', ') .. ' holds no state of a limit'})
  end
end
