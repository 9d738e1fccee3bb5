# Break-glass: in an incident, people on call may do more than their roles allow.
#
# It takes a claim (context.break_glass), the incident's ticket, a role that is on call and an
# action meant for it. It replaces the roles' conditions (ownership, hours, environment), not
# the explicit denies. Every use is decided and audited on its own: never cached.
package sark.authz

import rego.v1

break_glass_claimed if input.context.break_glass == true

break_glass_verdict := denial("break-glass is not for service accounts") if user.service

else := denial("break-glass without a valid ticket") if not ticket_valid

else := denial("break-glass is not for this action") if not break_glass_action

else := denial("break-glass is not for this role") if not break_glass_role

else := permission(concat(" ", ["break-glass:", input.action])) # bounded by the list of actions

ticket_valid if {
	is_string(input.context.ticket)
	regex.match(data.org.break_glass.ticket, input.context.ticket)
}

break_glass_action if input.action in data.org.break_glass.actions

break_glass_role if {
	some role in user.roles
	role in data.org.break_glass.roles
}
