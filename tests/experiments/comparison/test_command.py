"""The command that stands in a result."""

from experiments.comparison.command import command_line


def test_the_command_can_be_given_again(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr("sys.argv", ["run.py", "--seed=1", "--names=('a',)"])
    assert command_line("experiments.x.run") == "python -m experiments.x.run --seed=1 " + (
        "'--names=('\"'\"'a'\"'\"',)'"
    )
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    assert command_line("experiments.x.run", ["--rows=0"]) == (
        "GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python -m experiments.x.run --rows=0"
    )
