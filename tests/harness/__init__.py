"""What every foreign-peer suite shares: a runner, bounded waits and servers under test."""
