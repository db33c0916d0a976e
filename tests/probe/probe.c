/* What a program in a container may do, one line for each question: the same lines
 * on every machine with the same answers. Not a test by itself: tests/likeness.rs
 * runs it under two daemons and compares. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ask.h"

/* All calls with arguments that no call takes: what answers EPERM or ENOSYS is the
 * filter, or a missing right; the rest tells that the kernel was asked. */
static void ask_all(void)
{
	for (long number = 0; number < 480; number++) {
		char name[32];

		switch (number) {
		case SYS_exit:
		case SYS_exit_group:
		case SYS_rt_sigreturn:
		case SYS_pause:
		case SYS_fork:
		case SYS_vfork:
		case SYS_sched_yield:
		/* These make things that outlive who asks, perhaps the host's. */
		case SYS_msgget:
		case SYS_semget:
		case SYS_shmget:
			continue;
		}
		snprintf(name, sizeof(name), "call %ld", number);
		ask(name, number, -1, -1, -1, -1, -1);
	}
}

static void ask_ptrace(void)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		if (ptrace(PTRACE_TRACEME, 0, 0, 0) < 0)
			_exit(errno);
		raise(SIGSTOP);
		_exit(0);
	}
	waitpid(child, &status, 0);
	if (WIFSTOPPED(status)) {
		printf("ptrace of own child: done\n");
		ptrace(PTRACE_CONT, child, 0, 0);
		waitpid(child, &status, 0);
	} else {
		printf("ptrace of own child: %s\n", strerrorname_np(WEXITSTATUS(status)));
	}
}

int main(void)
{
	char *stack = malloc(1 << 16);
	static const struct {
		const char *name;
		int resource;
	} limits[] = {
		{ "cpu", RLIMIT_CPU }, { "fsize", RLIMIT_FSIZE }, { "data", RLIMIT_DATA },
		{ "stack", RLIMIT_STACK }, { "core", RLIMIT_CORE }, { "rss", RLIMIT_RSS },
		{ "memlock", RLIMIT_MEMLOCK }, { "as", RLIMIT_AS }, { "locks", RLIMIT_LOCKS },
		{ "msgqueue", RLIMIT_MSGQUEUE }, { "nice", RLIMIT_NICE },
		{ "rtprio", RLIMIT_RTPRIO }, { "rttime", RLIMIT_RTTIME },
	};

	/* Some of what is asked for is granted on a host, and does harm there. */
	if (access("/in-a-container", F_OK) < 0) {
		fprintf(stderr, "probe: this is no container made for it\n");
		return 2;
	}
	setvbuf(stdout, 0, _IOLBF, 0);
	for (int number = 0; number < 41; number++)
		printf("bounding %d: %d\n", number, prctl(PR_CAPBSET_READ, number, 0, 0, 0));
	printf("no_new_privs: %d\n", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	printf("seccomp: %d\n", prctl(PR_GET_SECCOMP, 0, 0, 0, 0));
	printf("dumpable: %d\n", prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
	printf("securebits: %d\n", prctl(PR_GET_SECUREBITS, 0, 0, 0, 0));
	printf("keepcaps: %d\n", prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0));
	for (unsigned at = 0; at < sizeof(limits) / sizeof(limits[0]); at++) {
		struct rlimit limit;

		getrlimit(limits[at].resource, &limit);
		printf("limit %s: %lld %lld\n", limits[at].name, (long long)limit.rlim_cur,
		       (long long)limit.rlim_max);
	}

	static const struct {
		const char *name;
		int flag;
	} kinds[] = {
		{ "user", CLONE_NEWUSER }, { "mount", CLONE_NEWNS }, { "pid", CLONE_NEWPID },
		{ "net", CLONE_NEWNET }, { "ipc", CLONE_NEWIPC }, { "uts", CLONE_NEWUTS },
		{ "cgroup", CLONE_NEWCGROUP }, { "time", 0x80 },
	};
	for (unsigned at = 0; at < sizeof(kinds) / sizeof(kinds[0]); at++) {
		char name[64];

		snprintf(name, sizeof(name), "unshare %s", kinds[at].name);
		ask(name, SYS_unshare, kinds[at].flag, 0, 0, 0, 0);
		snprintf(name, sizeof(name), "clone %s", kinds[at].name);
		/* Time namespaces are made by clone3 alone; the bit means a signal here. */
		if (kinds[at].flag != 0x80) {
			int status;
			pid_t child = fork();

			if (child == 0) {
				long made = syscall(SYS_clone, kinds[at].flag | SIGCHLD, 0, 0, 0, 0);

				if (made == 0)
					_exit(0);
				_exit(made < 0 ? errno : 0);
			}
			waitpid(child, &status, 0);
			printf("%s: %s\n", name,
			       WEXITSTATUS(status) ? strerrorname_np(WEXITSTATUS(status)) : "done");
		}
	}
	ask("clone3", SYS_clone3, 0, 0, 0, 0, 0);
	ask("io_uring_setup", SYS_io_uring_setup, 1, (long)stack, 0, 0, 0);
	ask("keyctl", SYS_keyctl, 0, -3, 0, 0, 0);
	ask("add_key", SYS_add_key, (long)"user", (long)"probe", (long)"x", 1, -3);
	ask("request_key", SYS_request_key, (long)"user", (long)"probe", 0, -3, 0);
	ask("bpf", SYS_bpf, 0, (long)stack, 64, 0, 0);
	ask("perf_event_open", SYS_perf_event_open, (long)stack, 0, -1, -1, 0);
	ask("userfaultfd", SYS_userfaultfd, 0, 0, 0, 0, 0);
	ask("mount", SYS_mount, (long)"none", (long)"/tmp", (long)"tmpfs", 0, 0);
	ask("pivot_root", SYS_pivot_root, (long)".", (long)".", 0, 0, 0);
	ask("open_by_handle_at", SYS_open_by_handle_at, -1, (long)stack, 0, 0, 0);
	ask("personality READ_IMPLIES_EXEC", SYS_personality, 0x0400000, 0, 0, 0, 0);
	ask("personality query", SYS_personality, 0xffffffff, 0, 0, 0, 0);
	ask("process_vm_readv", SYS_process_vm_readv, getpid(), 0, 0, 0, 0);
	ask("kcmp", SYS_kcmp, getpid(), getpid(), 0, 0, 0);
	ask("settimeofday", SYS_settimeofday, 0, 0, 0, 0, 0);
	ask("sethostname", SYS_sethostname, (long)"x", 1, 0, 0, 0);
	ask("chroot", SYS_chroot, (long)"/", 0, 0, 0, 0);
	ask("mknod of a device", SYS_mknod, (long)"/tmp/disk", S_IFBLK | 0600, 0x0800, 0, 0);
	ask("syslog", SYS_syslog, 3, (long)stack, 16, 0, 0);
	ask("acct", SYS_acct, 0, 0, 0, 0, 0);
	ask("swapon", SYS_swapon, (long)"/x", 0, 0, 0, 0);
	ask("reboot", SYS_reboot, 0, 0, 0, 0, 0);
	ask("init_module", SYS_init_module, 0, 0, 0, 0, 0);
	ask("kexec_load", SYS_kexec_load, 0, 0, 0, 0, 0);
	ask("iopl", SYS_iopl, 3, 0, 0, 0, 0);
	ask("setns", SYS_setns, -1, 0, 0, 0, 0);
	ask("TIOCSTI", SYS_ioctl, 0, TIOCSTI, (long)"x", 0, 0);
	ask("socket AF_VSOCK", SYS_socket, AF_VSOCK, SOCK_STREAM, 0, 0, 0);
	ask("socket AF_PACKET", SYS_socket, AF_PACKET, SOCK_RAW, 0, 0, 0);
	ask("socket AF_ALG", SYS_socket, AF_ALG, SOCK_SEQPACKET, 0, 0, 0);
	ask("socket AF_NETLINK audit", SYS_socket, AF_NETLINK, SOCK_RAW, 9, 0, 0);
	ask("socket raw", SYS_socket, AF_INET, SOCK_RAW, 1, 0, 0);
	ask_ptrace();
	ask_all();
	return 0;
}
