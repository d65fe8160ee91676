#!/usr/bin/env python3
"""A conformance suite of the S3 API, under the names that the public suite (ceph/s3-tests) gives its cases.

    run.py --server PATH        starts a fresh `stele serve` with accounts.toml, runs every case, ends it
    run.py --endpoint URL       runs them against a server that has those accounts, and was started with --lifecycle-day 10

--only REGEX picks cases by `group/name`. The exit code is 0 when every case passes that is not in differs.py, which says of
each case there why it can't.
"""

import argparse
import importlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
import urllib.request
from concurrent.futures import ThreadPoolExecutor

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True
# Some cases compare local times with the server's, and no case is to go through somebody's proxy.
os.environ['TZ'] = 'UTC'
time.tzset()
for name in [n for n in os.environ if n.lower().endswith('_proxy') or n.startswith('AWS_')]:
    del os.environ[name]

import kit  # noqa: E402
from differs import DIFFERS  # noqa: E402

READY_WITHIN = 180


class Server:
    """A `stele serve` of its own, in a directory of its own, until the block ends."""

    def __init__(self, binary, accounts):
        self.binary, self.accounts = binary, accounts

    def __enter__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix='stele-suite-'))
        accounts = self.dir / 'accounts.toml'
        accounts.write_text(self.accounts.read_text())
        accounts.chmod(0o600)
        self.ports = [reserved(), reserved()]
        s3, admin = (port.getsockname()[1] for port in self.ports)
        self.log = open(self.dir / 'log', 'wb')
        self.process = subprocess.Popen(
            [self.binary, 'serve', '--data', self.dir / 'data', '--drives', '4', '--accounts', accounts]
            + ['--s3', f'127.0.0.1:{s3}', '--admin', f'127.0.0.1:{admin}', '--lifecycle-day', str(kit.DAY)],
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        if not self.ready(f'http://127.0.0.1:{admin}/health/ready'):
            shown = (self.dir / 'log').read_text(errors='replace')[-3000:]
            self.__exit__()
            sys.exit(f'{self.binary} did not become ready:\n{shown}')
        return f'http://127.0.0.1:{s3}'

    def ready(self, url):
        end = time.time() + READY_WITHIN
        while time.time() < end and self.process.poll() is None:
            try:
                with urllib.request.urlopen(url, timeout=5):
                    return True
            except OSError:
                time.sleep(0.2)
        return False

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(120)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()
        for port in self.ports:
            port.close()
        shutil.rmtree(self.dir, ignore_errors=True)


def reserved():
    """A socket that keeps a port for the server: it never listens, and both ask for SO_REUSEADDR, so both may be bound to it."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(('127.0.0.1', 0))
    return s


def accounts(file):
    """The accounts of a file by name, and their users by `account/user`."""
    found = {}
    for account in tomllib.loads(file.read_text())['account']:
        found[account['name']] = account
        for user in account.get('user', []):
            found[f"{account['name']}/{user['name']}"] = {**account, **user}
    return found


def run(item):
    """One case: its name, its group, why it failed (None if it passed), and how long it took."""
    name, (group, fn) = item
    started = time.time()
    try:
        fn()
        why = None
    except Exception as e:
        steps = [s for s in traceback.extract_tb(e.__traceback__) if os.sep + 'cases' + os.sep in s.filename]
        where = f'{os.path.basename(steps[-1].filename)}:{steps[-1].lineno}' if steps else '?'
        why = f'{type(e).__name__}: {str(e)[:200]} ({where})'
    return name, group, why, time.time() - started


def run_all(chosen, jobs):
    with ThreadPoolExecutor(jobs) as pool:
        for name, group, why, took in pool.map(run, chosen):
            known = DIFFERS.get(name)
            if why is None:
                print(
                    f'pass     {group:20} {name} {took:.1f}s{" (although it is in differs.py)" if known else ""}',
                    flush=True,
                )
            else:
                print(f'{"differs" if known else "FAIL":8} {group:20} {name}: {why}', flush=True)
            yield name, group, why, known


def table(results):
    groups = {}
    for _, group, why, known in results:
        row = groups.setdefault(group, [0, 0, 0])
        row[0 if why is None else 1 if known else 2] += 1
    total = [sum(row[n] for row in groups.values()) for n in range(3)]
    print(f'\n{"group":28}{"pass":>6}{"differ":>8}{"FAIL":>6}{"all":>6}')
    for group, row in [*groups.items(), ('total', total)]:
        print(f'{group:28}{row[0]:6}{row[1]:8}{row[2]:6}{sum(row):6}')
    return total[2]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = p.add_mutually_exclusive_group(required=True)
    where.add_argument('--server', help='a stele binary, which is started')
    where.add_argument('--endpoint', help='of a server that has the accounts of accounts.toml')
    p.add_argument('--accounts', type=pathlib.Path, default=HERE / 'accounts.toml')
    p.add_argument('--only', default='')
    p.add_argument('--jobs', type=int, default=4)
    p.add_argument('--names', action='store_true', help='print the names of the cases and end')
    a = p.parse_args()
    for module in sorted((HERE / 'cases').glob('*.py')):
        importlib.import_module(f'cases.{module.stem}')
    chosen = [item for item in kit.CASES.items() if re.search(a.only, f'{item[1][0]}/{item[0]}')]
    if a.names:
        for name, (group, _) in chosen:
            print(f'{group}/{name}')
        return 0
    kit.ENV.update(accounts=accounts(a.accounts))

    def against(endpoint):
        kit.use(endpoint)
        return list(run_all(chosen, a.jobs))

    if a.endpoint:
        results = against(a.endpoint)
    else:
        with Server(a.server, a.accounts) as endpoint:
            results = against(endpoint)
    return 1 if table(results) else 0


sys.exit(main())
