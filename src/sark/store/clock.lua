-- The server's clock. Every script that needs the time takes it from here, so that processes with
-- skewed clocks agree, and so that a test can put another prelude in its place.
--
-- It is asked once: while a script runs, the server's time stands still for it (Valkey documentation,
-- "Scripting with Lua").
local clock_us
local function now_us()
  if not clock_us then
    local t = server.call('TIME')
    clock_us = tonumber(t[1]) * 1000000 + tonumber(t[2])
  end
  return clock_us
end
