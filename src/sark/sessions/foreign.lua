-- session_foreign(network, agent, from, with): what a session is bound to and not used from.
--
-- network, agent  what the session is bound to; false where it is not
-- from, with      what it is used from; empty where bindings aren't asked for
--
-- Returns 'network', 'user_agent' or false.
local function session_foreign(network, agent, from, with)
  if from ~= '' and network ~= from then return 'network' end
  if with ~= '' and agent ~= with then return 'user_agent' end
  return false
end
