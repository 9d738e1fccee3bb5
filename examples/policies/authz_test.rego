# Tests of the sample policies against an organisation of their own, so that the generated
# directory can change without them. `with time.now_ns as` sets the clock.
package sark.authz_test

import data.sark.authz
import rego.v1

directory := {"users": users, "resources": resources}

users := {
	"eve": {"team": "web", "roles": ["employee", "engineer"]},
	"oli": {"team": "platform", "roles": ["employee", "operator"]},
	"lea": {"team": "web", "roles": ["employee", "engineer", "lead"]},
	"ada": {"team": "platform", "roles": ["employee", "admin"]},
	"sam": {"team": "support", "roles": ["support"]},
	"user-0042": {"team": "web", "roles": ["admin", "operator"]},
	"svc-test": {"team": "web", "roles": ["deployer"], "service": true},
	"svc-root": {"team": "web", "roles": ["admin", "operator"], "service": true},
}

resources := {
	"server/web-001": {"kind": "server", "environment": "production", "team": "web"},
	"server/web-002": {"kind": "server", "environment": "staging", "team": "web"},
	"server/web-013": {"kind": "server", "environment": "production", "team": "web"},
	"server/api-001": {"kind": "server", "environment": "production", "team": "data"},
	"tool/lint": {"kind": "tool", "sensitivity": "low", "team": "web"},
	"tool/trace": {"kind": "tool", "sensitivity": "medium", "team": "data"},
	"tool/deploy": {"kind": "tool", "sensitivity": "high", "team": "web"},
	"tool/failover": {"kind": "tool", "sensitivity": "critical", "team": "web"},
	"tool/raw-sql": {"kind": "tool", "sensitivity": "low", "team": "web"},
	"user/eve": {"kind": "user", "team": "web", "user": "eve"},
	"user/oli": {"kind": "user", "team": "platform", "user": "oli"},
	"user/ada": {"kind": "user", "team": "platform", "user": "ada"},
	"user/user-0042": {"kind": "user", "team": "web", "user": "user-0042"},
	"key/signing": {"kind": "key", "team": "identity"},
	"catalog/servers": {"kind": "catalog"},
}

# 2024: the 8th of January is a Monday, the 9th a Tuesday, the 13th a Saturday.
monday_noon := time.parse_rfc3339_ns("2024-01-08T12:00:00Z")

monday_evening := time.parse_rfc3339_ns("2024-01-08T21:00:00Z")

tuesday_evening := time.parse_rfc3339_ns("2024-01-09T21:00:00Z")

saturday_noon := time.parse_rfc3339_ns("2024-01-13T12:00:00Z")

ask(user, action, resource, context, now) := decision if {
	question := {"user_id": user, "action": action, "resource": resource, "context": context}
	decision := authz.decision with input as question
		with data.org.directory as directory
		with time.now_ns as now
}

at_noon(user, action, resource, context) := ask(user, action, resource, context, monday_noon)

denied(reason) := {"allow": false, "reason": reason}

allowed(reason) := {"allow": true, "reason": reason}

# Malformed requests

test_no_input if {
	decision := authz.decision with input as null
	decision == denied("malformed request")
}

test_number_as_user if {
	at_noon(7, "server:read", "server/web-001", {}) == denied("malformed request")
}

test_context_is_no_object if {
	at_noon("eve", "server:read", "server/web-001", ["mfa"]) == denied("malformed context")
}

test_context_field_of_wrong_type if {
	every context in [{"mfa": "yes"}, {"break_glass": 1}, {"ticket": null}, {"environment": []}] {
		at_noon("eve", "server:read", "server/web-001", context) == denied("malformed context")
	}
}

test_other_context_is_ignored if {
	at_noon("eve", "server:read", "server/web-001", {"colour": {"is": ["blue"]}}).allow
}

# Unknown names

test_unknown_user if {
	at_noon("nobody", "server:read", "server/web-001", {}) == denied("unknown user")
}

test_unknown_action if {
	at_noon("eve", "server:paint", "server/web-001", {}) == denied("unknown action")
}

test_unknown_resource if {
	every name in ["", "web-001", "server/", "server/nope", "tool/lint", "server/web-001/"] {
		at_noon("eve", "server:read", name, {}) == denied("unknown resource")
	}
}

test_unknown_environment if {
	decision := at_noon("eve", "tool:invoke", "tool/lint", {"environment": "moon"})
	decision == denied("unknown environment")
}

test_environment_of_another_server if {
	decision := at_noon("eve", "server:read", "server/web-001", {"environment": "staging"})
	decision == denied("environment does not match the server")
}

# Roles

test_role_without_conditions if {
	at_noon("eve", "server:read", "server/api-001", {}) == allowed("role engineer may server:read")
}

test_everybody_lists if {
	at_noon("oli", "server:list", "catalog/servers", {}) == allowed("role employee may server:list")
}

test_no_role if {
	at_noon("sam", "server:delete", "server/web-001", {}) == denied("no role permits this action")
}

test_other_teams_server if {
	decision := at_noon("eve", "server:write", "server/api-001", {})
	decision == denied("not for other teams' property")
}

test_environment_out_of_reach if {
	at_noon("sam", "server:read", "server/web-002", {}) == denied("not for this environment")
}

test_oneself if {
	at_noon("oli", "user:read", "user/oli", {}) == allowed("role employee may user:read")
}

test_somebody_else if {
	at_noon("oli", "user:read", "user/eve", {}) == denied("not for others than the user")
}

test_sensitivity if {
	at_noon("eve", "tool:invoke", "tool/trace", {}) == allowed("role engineer may tool:invoke")
	at_noon("eve", "tool:invoke", "tool/failover", {}) == denied("tool too sensitive for the role")
}

test_tool_acts_in_production_unless_told if {
	untold := at_noon("svc-test", "tool:invoke", "tool/deploy", {})
	untold == denied("not for this environment")
	told := at_noon("svc-test", "tool:invoke", "tool/deploy", {"environment": "staging"})
	told == allowed("role deployer may tool:invoke")
}

test_lead_reaches_further_with_a_second_factor if {
	at_noon("lea", "tool:invoke", "tool/failover", {}) == denied("second factor missing")
	decision := at_noon("lea", "tool:invoke", "tool/failover", {"mfa": true})
	decision == allowed("role lead may tool:invoke")
}

test_second_factor if {
	at_noon("ada", "user:grant", "user/eve", {}) == denied("second factor missing")
	at_noon("ada", "user:grant", "user/eve", {"mfa": false}) == denied("second factor missing")
	at_noon("ada", "user:grant", "user/eve", {"mfa": true}) == allowed("role admin may user:grant")
}

test_slips_in_the_data_deny if {
	every grant in [{"owner": true}, {"hours": "lunch"}, {"sensitivity": "tiny"}] {
		roles := {"engineer": {"server:read": [grant]}}
		decision := at_noon("eve", "server:read", "server/web-001", {}) with data.org.roles as roles
		not decision.allow
		is_string(decision.reason)
	}
}

# Hours

test_untimed_has_no_ttl if not at_noon("eve", "server:write", "server/web-002", {}).ttl

test_open_until_closing if {
	decision := at_noon("eve", "server:write", "server/web-001", {})
	decision == {"allow": true, "reason": "role engineer may server:write", "ttl": (7 * 3600) - 2}
}

test_closed_until_opening if {
	early := time.parse_rfc3339_ns("2024-01-08T06:30:00Z")
	decision := ask("eve", "server:write", "server/web-001", {}, early)
	decision == {"allow": false, "reason": "outside the permitted hours", "ttl": 1800 - 2}
}

test_closed_until_midnight if {
	decision := ask("eve", "server:write", "server/web-001", {}, saturday_noon)
	decision == {"allow": false, "reason": "outside the permitted hours", "ttl": (12 * 3600) - 2}
}

test_nearest_of_two_schedules if {
	closed := ask("oli", "server:write", "server/web-001", {}, saturday_noon)
	closed == {"allow": false, "reason": "outside the permitted hours", "ttl": (8.5 * 3600) - 2}
	open := ask("oli", "server:write", "server/web-001", {}, tuesday_evening)
	open == {"allow": true, "reason": "role operator may server:write", "ttl": (2 * 3600) - 2}
}

test_boundaries_belong_to_the_opening if {
	opening := time.parse_rfc3339_ns("2024-01-08T07:00:00Z")
	closing := time.parse_rfc3339_ns("2024-01-08T19:00:00Z")
	ask("eve", "server:write", "server/web-001", {}, opening).allow
	not ask("eve", "server:write", "server/web-001", {}, opening - 1).allow
	ask("eve", "server:write", "server/web-001", {}, closing - 1).allow
	not ask("eve", "server:write", "server/web-001", {}, closing).allow
}

test_not_cached_next_to_a_boundary if {
	closing := time.parse_rfc3339_ns("2024-01-08T18:59:58Z")
	decision := ask("eve", "server:write", "server/web-001", {}, closing)
	decision == {"allow": true, "reason": "role engineer may server:write", "cacheable": false}
}

test_obstacles_come_before_hours if {
	decision := ask("eve", "server:write", "server/api-001", {}, monday_evening)
	decision == denied("not for other teams' property")
}

night_shift := {
	"zone": "Europe/Berlin",
	"days": ["Saturday", "Sunday"],
	"opens": [1, 0],
	"closes": [5, 0],
}

test_zone if {
	time_in_berlin := time.parse_rfc3339_ns("2024-01-13T00:00:00Z")
	authz.schedule_open(night_shift, time_in_berlin)
	not authz.schedule_open(night_shift, time_in_berlin - 1)
}

test_clocks_put_forward if {
	# 01:30 local; 03:00 follows 02:00, so that closing is 2.5 and not 3.5 hours away.
	before := time.parse_rfc3339_ns("2024-03-31T00:30:00Z")
	authz.schedule_ttl(night_shift, before) == (2.5 * 3600) - 2
}

test_clocks_put_back if {
	# 01:30 local; 02:00 follows 03:00: closing is 4.5 hours away. Shorter is safe.
	before := time.parse_rfc3339_ns("2024-10-26T23:30:00Z")
	authz.schedule_ttl(night_shift, before) == (2.5 * 3600) - 2
}

# Break-glass

emergency := {"break_glass": true, "ticket": "INC-2041"}

test_break_glass if {
	decision := ask("oli", "server:write", "server/api-001", emergency, monday_evening)
	decision == {"allow": true, "reason": "break-glass: server:write", "cacheable": false}
}

refused_break_glass(reason) := {"allow": false, "reason": reason, "cacheable": false}

test_break_glass_needs_a_ticket if {
	every ticket in ["", "INC-", "INC-12", "INC-2041\n", "xINC-2041", "CHG-2041", "INC-204112345"] {
		context := {"break_glass": true, "ticket": ticket}
		decision := at_noon("oli", "server:write", "server/web-001", context)
		decision == refused_break_glass("break-glass without a valid ticket")
	}
	none := at_noon("oli", "server:write", "server/web-001", {"break_glass": true})
	none == refused_break_glass("break-glass without a valid ticket")
}

test_break_glass_needs_a_role if {
	decision := at_noon("eve", "server:write", "server/web-001", emergency)
	decision == refused_break_glass("break-glass is not for this role")
}

test_break_glass_needs_an_action if {
	decision := at_noon("oli", "server:delete", "server/web-001", emergency)
	decision == refused_break_glass("break-glass is not for this action")
}

test_break_glass_is_for_people if {
	decision := at_noon("svc-root", "server:write", "server/web-001", emergency)
	decision == refused_break_glass("break-glass is not for service accounts")
}

test_no_break_glass_claimed if {
	context := {"break_glass": false, "ticket": "INC-2041"}
	not at_noon("eve", "server:write", "server/api-001", context).allow
	not "cacheable" in object.keys(at_noon("eve", "server:read", "server/api-001", context))
}

# Explicit denies

test_suspended if {
	at_noon("user-0042", "server:read", "server/web-001", {}) == denied("user suspended")
}

test_suspended_users_can_be_looked_at if at_noon("ada", "user:read", "user/user-0042", {}).allow

test_quarantined if {
	at_noon("eve", "server:read", "server/web-013", {}) == denied("server quarantined")
}

test_denied_tool if {
	at_noon("ada", "tool:invoke", "tool/raw-sql", {"mfa": true}) == denied("tool denied")
}

test_services_do_not_administer if {
	decision := at_noon("svc-root", "admin:rotate-keys", "key/signing", {"mfa": true})
	decision == denied("service accounts may not administer")
}

test_nobody_grants_to_themselves if {
	decision := at_noon("ada", "user:grant", "user/ada", {"mfa": true})
	decision == denied("nobody grants to themselves")
}

test_denies_beat_break_glass if {
	server := at_noon("oli", "server:write", "server/web-013", emergency)
	server == refused_break_glass("server quarantined")
	user := at_noon("user-0042", "server:write", "server/web-001", emergency)
	user == refused_break_glass("user suspended")
	tool := at_noon("oli", "tool:invoke", "tool/raw-sql", emergency)
	tool == refused_break_glass("tool denied")
}
