"""What a user's mistake is told in: one line, without passwords."""

import pytest

from mpcwdwm.errors import UserError, without_passwords


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('not "postgresql://me:p/a@ss@host/x" here', 'not "postgresql://me:***@host/x" here'),
        ("s3://key:geheim@bucket, and a@b", "s3://key:***@bucket, and a@b"),
        ("http://u:x@a http://v:y@b", "http://u:***@a http://v:***@b"),
        ("postgresql://h/x?user=me&password=geheim&a=b", "postgresql://h/x?user=me&password=***&a=b"),
        ("http://host:5000/x ray://host:10001, x@y", "http://host:5000/x ray://host:10001, x@y"),
        ("git+ssh://git@host/x.git@abc", "git+ssh://git@host/x.git@abc"),
    ],
)
def test_passwords_of_urls_are_left_out(text: str, shown: str) -> None:
    assert without_passwords(text) == shown
    assert str(UserError(f"a\n  {text}")) == f"a {shown}"
