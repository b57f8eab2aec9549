/* Locks without waiting, in a program that waits for everything in one place, with poll(): ten locks are asked for at
 * once, and each is given back when it is granted or, if it is wanted by others, later on.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>

#include <oarlock.h>

enum { LOCKS = 10 };

struct job {
    int number;
    int *left;
};

static void released(void *arg, oar_lock *lock, int rc)
{
    struct job *job = (struct job *)arg;

    if (rc != 0) {
        fprintf(stderr, "lock %d: %s\n", job->number, oar_strerror(rc));
    }
    /* A callback may free the lock that it is called for. */
    oar_lock_free(lock);
    --*job->left;
}

static void granted(void *arg, oar_lock *lock, int rc)
{
    struct job *job = (struct job *)arg;

    if (rc == 0) {
        printf("lock %d is granted\n", job->number);
        rc = oar_unlock_start(lock, released, job);
    }
    if (rc != 0) {
        released(job, lock, rc);
    }
}

static void wanted(void *arg, oar_lock *lock, int mode)
{
    (void)lock;
    printf("others want lock %d in mode %d\n", ((struct job *)arg)->number, mode);
}

int main(void)
{
    oar_client *client = NULL;
    oar_space *space = NULL;
    struct job jobs[LOCKS];
    struct pollfd fds[1];
    int left = 0, rc, i;

    rc = oar_connect(NULL, NULL, &client);
    if (rc == 0) {
        rc = oar_space_open(client, "default", 0, &space);
    }
    for (i = 0; rc == 0 && i < LOCKS; ++i) {
        char name[32];
        oar_lock *lock;
        int length = snprintf(name, sizeof name, "with_poll/%d", i);

        jobs[i].number = i;
        jobs[i].left = &left;
        rc = oar_lock_start(space, name, (size_t)length, OAR_PR, NULL, granted, wanted, &jobs[i], &lock);
        if (rc == 0) {
            ++left;
        }
    }
    if (rc != 0) {
        fprintf(stderr, "%s\n", oar_strerror(rc));
    }
    fds[0].fd = oar_fd(client);
    fds[0].events = POLLIN;
    while (left > 0) {
        if (poll(fds, 1, -1) < 0 && errno != EINTR) {
            perror("poll");
            return 1;
        }
        /* Nothing is told but here. */
        oar_dispatch(client, 0);
    }
    oar_space_close(space);
    oar_close(client);
    return rc == 0 ? 0 : 1;
}
