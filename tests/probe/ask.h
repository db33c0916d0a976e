/* How the programs of this folder ask: each question in a child, so that one that
 * is answered with a signal, or that changes who asks, is asked all the same. The
 * answer is a line: the question, and `done` or the name of an error. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Waits for a child that ends with the number of an error. */
static void tell(const char *name, pid_t child)
{
	int status;

	if (child < 0 || waitpid(child, &status, 0) != child)
		printf("%s: cannot be asked\n", name);
	else if (WIFSIGNALED(status))
		printf("%s: signal %d\n", name, WTERMSIG(status));
	else
		printf("%s: %s\n", name, WEXITSTATUS(status) ? strerrorname_np(WEXITSTATUS(status)) : "done");
}

/* Asks the kernel by a call. */
static void ask(const char *name, long number, long a, long b, long c, long d, long e)
{
	pid_t child = fork();

	if (child == 0) {
		long result;

		/* One that waits is ended. */
		alarm(1);
		result = syscall(number, a, b, c, d, e, 0);
		_exit(result < 0 ? errno : 0);
	}
	tell(name, child);
}
