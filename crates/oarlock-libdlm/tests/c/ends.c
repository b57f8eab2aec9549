/* The node ends while a call waits, and while a lock is held: nothing hangs. */
#include "check.h"

int main(void)
{
    struct lk a, b;
    int rc;
    memset(&a, 0, sizeof a), memset(&b, 0, sizeof b);
    ls = make("ends");
    GET(a, "x", EX, 0);
    printf("ready\n");
    fflush(stdout);
    rc = dlm_ls_lock_wait(ls, EX, &b.sb, 0, "x", 1, 0, &b, NULL, NULL);
    IS(rc != 0 ? errno : b.sb.sb_status, ENOTCONN);
    /* What was held is lost, and whoever asks hears it. */
    ENDS(a, "x", PR, LKF_CONVERT, ENOTCONN);
    ENDS(b, "y", PR, 0, ENOTCONN);
    UNLOCK_WITH(a, 0, ENOTCONN);
    errno = 0;
    IS(dlm_release_lockspace("ends", ls, 1), 0);
    IS(errno, EUNATCH);
    TRUE(dlm_create_lockspace("ends", 0600) == NULL);
    IS(errno, EUNATCH);
    printf("all ends\n");
    return 0;
}
