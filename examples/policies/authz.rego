# The decision that SARK asks for, data.sark.authz.decision:
#
#   allow      boolean
#   reason     a phrase from a bounded set: it names roles and actions, never users or resources,
#              so that denials can be counted by reason
#   ttl        seconds, where the decision depends on the time of day (hours.rego)
#   cacheable  false where the decision must be made anew each time
#
# The first that applies decides: a malformed request (request.rego), an explicit deny
# (denies.rego), an unknown user, action or resource (request.rego), break-glass
# (breakglass.rego), the grants of the user's roles (roles.rego).
package sark.authz

import rego.v1

# Whoever claims break-glass gets a decision of this moment, whatever it is.
decision := object.union(verdict, {"cacheable": false}) if break_glass_claimed

else := verdict

verdict := denial(malformed) if not well_formed

else := denial(explicit_deny) if explicit_deny

else := denial(unknown) if unknown

else := break_glass_verdict if break_glass_claimed

else := role_verdict

denial(reason) := {"allow": false, "reason": reason}

permission(reason) := {"allow": true, "reason": reason}
