"""What is known of rejected tokens and of the routes that reject them."""

from __future__ import annotations

from proxy.core.rejection_history import RejectionHistory, RoutePauses
from proxy.core.token import Moment, Token

TOKEN = Token("a.b.c", Moment(0.0, 0.0))


def test_rejections_on_all_routes_together_begin_twenty_renewals_at_once() -> None:
    history = RejectionHistory()
    assert [history.may_begin_renewal(TOKEN, f"GET /{number}", 5.0) for number in range(25)] == [True] * 20 + [
        False
    ] * 5


def test_several_processes_share_the_renewals_that_rejections_may_begin() -> None:
    each = [RejectionHistory(processes=4) for _ in range(4)]
    begun = sum(
        history.may_begin_renewal(TOKEN, "GET /a", 100.0 + second)
        for history in each
        for second in range(9)
        for _ in range(9)
    )
    assert begun == 20 + 8


def test_one_more_renewal_may_begin_every_second() -> None:
    history = RejectionHistory()
    begun = sum(history.may_begin_renewal(TOKEN, "GET /a", 100.0 + tick / 10) for tick in range(301))
    assert begun == 20 + 30


def test_the_allowance_does_not_grow_beyond_its_burst() -> None:
    history = RejectionHistory()
    history.may_begin_renewal(TOKEN, "GET /a", 0.0)
    assert sum(history.may_begin_renewal(TOKEN, "GET /a", 10_000.0) for _ in range(50)) == 20


def test_what_another_process_had_renewed_already_costs_none_of_them() -> None:
    history = RejectionHistory()
    for _ in range(100):
        assert history.may_begin_renewal(TOKEN, "GET /a", 5.0)
        history.no_renewal("GET /a")
    assert not history.just_renewed(Token("d.e.f", Moment(0.0, 0.0)), "GET /a", 5.1)
    assert sum(history.may_begin_renewal(TOKEN, "GET /a", 5.0) for _ in range(50)) == 20


def test_renewals_begun_by_two_other_routes_lately_are_many() -> None:
    history = RejectionHistory()
    history.may_begin_renewal(TOKEN, "GET /a", 0.0)
    assert not history.comes_from_many_routes("GET /c", 1.0)
    history.may_begin_renewal(TOKEN, "GET /b", 1.0)
    assert history.comes_from_many_routes("GET /c", 2.0)
    assert not history.comes_from_many_routes("GET /b", 2.0)
    assert not history.comes_from_many_routes("GET /c", 10.5)


def test_a_token_is_known_to_be_accepted_only_on_the_routes_where_it_was() -> None:
    history = RejectionHistory()
    history.accepted(TOKEN, "GET /a")
    assert history.was_accepted(TOKEN, "GET /a")
    assert not history.was_accepted(TOKEN, "GET /b")
    assert not history.was_accepted(Token("a.b.c", Moment(0.0, 0.0)), "GET /a")


def test_a_token_rejected_on_a_second_route_is_suspect() -> None:
    history = RejectionHistory()
    assert not history.rejected(TOKEN, "GET /a")
    assert not history.rejected(TOKEN, "GET /a")
    assert history.rejected(TOKEN, "GET /b")


def test_two_tokens_rejected_on_a_route_each_are_not_suspect() -> None:
    history = RejectionHistory()
    assert not history.rejected(TOKEN, "GET /a")
    assert not history.rejected(Token("d.e.f", Moment(0.0, 0.0)), "GET /b")


def test_an_accepted_answer_ends_the_pause_of_its_route() -> None:
    history = RejectionHistory()
    history.pauses.rejected_again("GET /a", 0.0)
    history.accepted(TOKEN, "GET /a")
    assert not history.pauses.paused("GET /a", 0.5)


def test_of_many_processes_each_may_begin_one_renewal() -> None:
    history = RejectionHistory(processes=40)
    assert [history.may_begin_renewal(TOKEN, "GET /a", 100.0) for _ in range(3)] == [True, False, False]


def test_renewals_are_lately_for_ten_seconds_and_just_begun_for_one() -> None:
    history, newer = RejectionHistory(), Token("d.e.f", Moment(100.0, 0.0))
    for route in ("GET /a", "GET /b"):
        history.may_begin_renewal(TOKEN, route, 100.0)
    assert history.comes_from_many_routes("GET /c", 109.9) and not history.comes_from_many_routes("GET /c", 110.0)
    assert history.just_renewed(newer, "GET /a", 100.9) and not history.just_renewed(newer, "GET /a", 101.0)


def test_of_too_many_routes_that_began_renewals_the_first_are_forgotten() -> None:
    history = RejectionHistory()
    for second in range(25):
        assert history.may_begin_renewal(TOKEN, f"GET /{second}", float(second))
    assert history.comes_from_many_routes("GET /c", 32.0)  # those of 23 and 24


# Pauses of routes


def test_a_route_that_was_never_rejected_is_not_paused() -> None:
    assert not RoutePauses().paused("/a", 0.0)


def test_a_pause_ends_after_its_time() -> None:
    pauses = RoutePauses()
    pauses.rejected_again("/a", 100.0)
    assert pauses.paused("/a", 100.0)
    assert pauses.paused("/a", 100.999)
    assert not pauses.paused("/a", 101.0)


def test_pauses_of_a_route_grow_from_one_to_sixty_seconds() -> None:
    pauses, now, lengths = RoutePauses(), 0.0, []
    for _ in range(9):
        pauses.rejected_again("/a", now)
        lengths.append(next(length for length in (1, 2, 4, 8, 16, 32, 60, 64) if not pauses.paused("/a", now + length)))
        now += lengths[-1]
    assert lengths == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_many_rejections_in_one_pause_lengthen_nothing() -> None:
    pauses = RoutePauses()
    for moment in range(1000):
        pauses.rejected_again("/a", moment / 1001)
    assert not pauses.paused("/a", 1.0)
    pauses.rejected_again("/a", 1.0)
    assert pauses.paused("/a", 2.99)
    assert not pauses.paused("/a", 3.0)


def test_a_pause_is_of_its_route_only() -> None:
    pauses = RoutePauses()
    pauses.rejected_again("/a", 0.0)
    assert not pauses.paused("/b", 0.5)


def test_an_accepted_answer_ends_the_pause_and_its_growth() -> None:
    pauses = RoutePauses()
    pauses.rejected_again("/a", 0.0)
    pauses.rejected_again("/a", 1.0)
    pauses.accepted("/a")
    assert not pauses.paused("/a", 1.5)
    pauses.rejected_again("/a", 1.5)
    assert not pauses.paused("/a", 2.5)


def test_an_accepted_answer_of_another_route_ends_nothing() -> None:
    pauses = RoutePauses()
    pauses.rejected_again("/a", 0.0)
    pauses.accepted("/b")
    assert pauses.paused("/a", 0.5)


def test_pauses_are_bounded_and_the_least_recent_goes_first() -> None:
    pauses = RoutePauses()
    pauses.rejected_again("/first", 0.0)
    pauses.rejected_again("/first", 1.0)
    for number in range(RoutePauses.MOST - 1):
        pauses.rejected_again(f"/{number}", 2.0)
    assert pauses.paused("/first", 2.5)
    pauses.rejected_again("/first", 3.0)
    for number in range(5000):
        pauses.rejected_again(f"/more/{number}", 3.0)
        assert len(pauses) <= RoutePauses.MOST
    assert not pauses.paused("/first", 3.5)
    assert pauses.paused("/more/4999", 3.5)


def test_made_up_routes_share_one_pause_beyond_the_first_few() -> None:
    pauses = RoutePauses()
    for number in range(100):
        pauses.rejected_again(f"GET other made-up-{number}", 0.0)
    assert len(pauses) == RoutePauses.MOST_UNKNOWN + 1
    assert pauses.paused("GET other never-seen", 0.5)
    assert not pauses.paused("GET /v3/carts", 0.5)
