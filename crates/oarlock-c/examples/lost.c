/* A holder that works until its lock is lost, and stops in time. Run it, then stop or kill the node. */
#include <stdio.h>

#include <oarlock.h>

struct work {
    int at_risk;
    int lost;
};

static void lost(void *arg, oar_lock *lock, int rc)
{
    struct work *work = (struct work *)arg;

    (void)lock;
    if (rc == OAR_E_AT_RISK) {
        /* Still held: bring what is under way to an end within a second, and begin nothing new. */
        work->at_risk = 1;
    } else {
        work->lost = 1;
    }
    printf("%s\n", oar_strerror(rc));
    fflush(stdout);
}

static void blocking(void *arg, oar_lock *lock, int mode)
{
    (void)arg;
    (void)lock;
    printf("others want mode %d, and will have to wait\n", mode);
    fflush(stdout);
}

int main(void)
{
    oar_client *client = NULL;
    oar_space *space = NULL;
    oar_lock *lock = NULL;
    struct work work = { 0, 0 };
    int rc;

    rc = oar_connect(NULL, NULL, &client);
    if (rc == 0) {
        rc = oar_space_open(client, "default", 0, &space);
    }
    if (rc == 0) {
        rc = oar_lock_wait(space, "lost", 4, OAR_EX, NULL, &lock);
    }
    if (rc == 0) {
        rc = oar_watch(lock, blocking, lost, &work);
    }
    if (rc == 0) {
        printf("working\n");
        fflush(stdout);
    }
    while (rc == 0 && !work.lost) {
        /* A real program works here, and looks between its steps: */
        if (!work.at_risk && oar_lock_lost(lock) == OAR_E_AT_RISK) {
            work.at_risk = 1;
        }
        rc = oar_dispatch(client, 100);
        rc = rc < 0 ? rc : 0;
    }
    if (rc != 0) {
        fprintf(stderr, "%s\n", oar_strerror(rc));
    }
    /* Others need not wait longer than that for what this program held. */
    oar_lock_free(lock);
    oar_space_close(space);
    oar_close(client);
    return rc == 0 ? 0 : 1;
}
