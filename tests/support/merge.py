"""Runs cloud-init's own code to find out how a guest interprets seeds.

    merge.py DEFAULT_USER FOLDER...

Each folder contains `user-data`, optionally the seed's other files, and in `included/` the content for `#include`,
named by the last part of the URL. The script writes `merged.json` to the folder: the merged configuration, the scripts,
the changes that the modules for users and ssh would make to the guest, its names and interfaces, and the warnings. The
modules run unmodified; only calls that would change this machine are recorded instead.
"""

import contextlib
import glob
import inspect
import io
import json
import logging
import os
import sys
import tempfile
import types

from cloudinit import cloud, helpers, sources, ssh_util, stages, subp, user_data, util
from cloudinit.config import cc_ssh, cc_users_groups
from cloudinit.net import network_state


class Warnings(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


def read(folder):
    files = {}
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    files[name] = file.read()
    return files


def texts(folder):
    return {name: content.decode() for name, content in read(folder).items()}


def consume(files, included, default_user):
    """Returns the merged configuration; cloud-init writes everything else to its folders."""

    def fetch(url, **_):
        content = included.get(url.rsplit("/", 1)[-1])
        if content is None:
            raise user_data.UrlError(IOError("not found"), code=404, url=url)
        return types.SimpleNamespace(ok=lambda: True, contents=content, code=200)

    user_data.read_file_or_url = fetch
    init = stages.Init()
    init._cfg = {
        "system_info": {
            "distro": "debian",
            "paths": {"cloud_dir": os.path.abspath("lib"), "run_dir": os.path.abspath("run")},
            "default_user": {
                "name": default_user,
                "sudo": ["ALL=(ALL) NOPASSWD:ALL"],
                "groups": ["adm", "sudo"],
                "shell": "/bin/bash",
            },
        }
    }
    source = sources.DataSource(init._cfg, init.distro, init.paths)
    source.metadata = util.load_yaml(files.get("meta-data", b"instance-id: alone"))
    source.userdata_raw = files["user-data"]
    init.datasource = source
    init.paths.datasource = source
    for folder in ("scripts", "handlers", "boothooks", "data"):
        util.ensure_dir(init.paths.get_ipath(folder))
    # cloud-init creates this link to the current instance before it processes user data.
    os.symlink(init.paths.get_ipath(), init.paths.instance_link)
    # The variables for templates; cloud-init up to 20.4 reads the first file.
    for name in ("instance-data.json", "instance-data-sensitive.json"):
        util.write_file(os.path.join(init.paths.run_dir, name), '{"v1": {"region": "somewhere"}}')
    subp.subp = lambda *_, **__: ("", "")  # boot hooks, which would run immediately
    init._consume_userdata(frequency="once-per-instance")
    with open(init.paths.get_ipath("cloud_config"), encoding="utf-8") as file:
        return init, util.load_yaml(file.read()) or {}


def run(module, config, guest):
    """Runs a module on a copy of the configuration, because modules modify it."""
    # The image's own configuration creates the default user.
    config = {"users": ["default"], **json.loads(json.dumps(config, default=str))}
    arguments = [module.__name__, config, guest]
    # Older versions have a parameter for the log, under different names.
    if len(inspect.signature(module.handle).parameters) == 5:
        arguments.append(logging.getLogger())
    with contextlib.redirect_stdout(io.StringIO()):
        module.handle(*arguments, [])


def make_users(config, guest):
    """Returns the users with their settings, and the keys authorized for each user."""
    users, authorized, distro = {}, [], guest.distro

    def add(name, **arguments):
        users[name] = arguments
        return name != "root"

    distro.add_user = add
    distro.create_group = lambda *_, **__: None
    distro.lock_passwd = lambda name: users[name].update(locked=True)
    distro.unlock_passwd = lambda name: users[name].update(locked=False)
    distro.set_passwd = lambda *_, **__: None
    distro.write_sudo_rules = lambda name, rules, **_: users[name].update(rules=rules)
    distro._shadow_file_has_empty_user_password = lambda _: False
    ssh_util.setup_user_keys = lambda keys, name, options=None: authorized.append(
        {"user": name, "keys": sorted(keys), "options": options or ""}
    )
    try:
        run(cc_users_groups, config, guest)
    except Exception as error:
        logging.warning("users_groups failed: %s", error)
    return users, authorized


def make_host_keys(config, guest):
    """Returns the files in /etc/ssh, of which the image provides some, and the commands that generate others."""
    commands, real = [], glob.glob
    os.mkdir("ssh")
    for name in ("ssh_host_rsa_key", "ssh_host_dsa_key", "ssh_host_dsa_key.pub"):
        util.write_file(os.path.join("ssh", name), "the image's")

    def relocate(path):
        return path.replace("/etc/ssh/", "ssh/")

    cc_ssh.glob = types.SimpleNamespace(glob=lambda path: real(relocate(path)))
    cc_ssh.KEY_FILE_TPL = relocate(cc_ssh.KEY_FILE_TPL)
    files = cc_ssh.CONFIG_KEY_TO_FILE.items()
    cc_ssh.CONFIG_KEY_TO_FILE = {key: (relocate(file), mode) for key, (file, mode) in files}
    subp.subp = lambda command, **_: commands.append(command) or ("", "")
    run(cc_ssh, config, guest)
    return texts("ssh"), commands


def merge(folder, default_user):
    warnings = Warnings()
    logging.getLogger().addHandler(warnings)
    files = read(folder)
    init, config = consume(files, read(os.path.join(folder, "included")), default_user)
    guest = cloud.Cloud(init.datasource, init.paths, init._cfg, init.distro, helpers.Runners(init.paths))
    users, authorized = make_users(config, guest)
    host_keys, commands = make_host_keys(config, guest)
    name = util.get_hostname_fqdn(config, guest)
    network = network_state.parse_net_config_data(util.load_yaml(files.get("network-config", b"version: 2")))
    return {
        "config": config,
        "scripts": texts(init.paths.get_ipath("scripts")),
        "boothooks": texts(init.paths.get_ipath("boothooks")),
        # Part handlers write their input to this folder.
        "handled": texts("handled"),
        "users": users,
        "authorized": authorized,
        "hostKeys": host_keys,
        "keygen": commands,
        "hostname": name[0],
        "fqdn": name[1],
        "interfaces": list(network.iter_interfaces()),
        "instance": init.datasource.get_instance_id(),
        "warnings": warnings.texts,
    }


def main(default_user, folders):
    for folder in map(os.path.abspath, folders):
        # One process per seed, because cloud-init keeps state in its modules.
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            if status:
                sys.exit(f"cannot merge {folder}")
            continue
        with tempfile.TemporaryDirectory() as state:
            os.chdir(state)
            merged = merge(folder, default_user)
            with open(os.path.join(folder, "merged.json"), "w", encoding="utf-8") as file:
                json.dump(merged, file, default=str)
            os.chdir("/")
        os._exit(0)


main(sys.argv[1], sys.argv[2:])
