"""Ten kills of real processes at moments drawn by chance; `benchmarks/kill.py` does two hundred."""

from benchmarks.kill import kill_often


def test_a_run_that_is_killed_ten_times_ends_with_the_bits_and_records_of_one_that_was_not(tmp_path):
    result = kill_often(10, 0, tmp_path, tmp_path / "cache")
    assert result["kills"] == sum(result["phases"].values()) == 10
    assert result["differences"] == []
    assert sum(count > 0 for count in result["phases"].values()) >= 2, result
