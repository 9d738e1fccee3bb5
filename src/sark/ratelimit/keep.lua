-- ratelimit_keep(key, stored, value, ends): write a state that expires at a time in milliseconds.
--
-- stored  what the key held, or false; a key that holds no string is somebody else's, and an error
local function ratelimit_keep(key, stored, value, ends)
  if stored then
    server.call('SET', key, value, 'PXAT', ends)
  elseif not server.call('SET', key, value, 'PXAT', ends, 'NX') then
    error({err = 'WRONGTYPE ' .. key .. ' holds no state of a limit'})
  end
end
