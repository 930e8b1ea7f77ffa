from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clawplane.store.chunks import MAX_BYTES, MAX_ITEMS, cut


@given(st.lists(st.sampled_from([0, 1, 1000, MAX_BYTES // 2, MAX_BYTES, MAX_BYTES + 1, 3 * MAX_BYTES]), max_size=40))
def test_chunks_hold_all_items_in_order_and_only_a_single_item_is_larger_than_the_limit(sizes: list[int]) -> None:
    chunks = [list(chunk) for chunk in cut(sizes, sizes)]
    assert [size for chunk in chunks for size in chunk] == sizes
    assert all(chunk for chunk in chunks)
    assert all(sum(chunk) <= MAX_BYTES or len(chunk) == 1 for chunk in chunks)


def test_chunks_hold_no_more_than_a_page_needs() -> None:
    chunks = list(cut(range(2 * MAX_ITEMS + 1), [1] * (2 * MAX_ITEMS + 1)))
    assert [len(chunk) for chunk in chunks] == [MAX_ITEMS, MAX_ITEMS, 1]
