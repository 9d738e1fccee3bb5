-- The server's clock. Every script that needs the time takes it from here, so that processes with
-- skewed clocks agree, and so that a test can put another prelude in its place.
local function now_us()
  local t = server.call('TIME')
  return tonumber(t[1]) * 1000000 + tonumber(t[2])
end
