/* A camera without a kernel: preloaded, it answers the V4L2 ioctls on any file whose path begins with $V4L2_STUB.
 *
 * The file itself is the memory of the buffers, so that mmap works as it is; deleting it unplugs the camera. Files
 * beside it, named after it: .frozen (no more frames), .damaged (noise, flagged), .busy; .1280x720.jpg is the picture.
 * Offers YUYV 640x480 at 30 and 1280x720 at 10 fps, MJPG 640x480, 1280x720 and 1920x1080 at 30.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BUFFERS 8
#define SLOT (4 << 20) /* whole pages, for mmap */
static const struct mode { unsigned format, width, height, fps; } modes[] = {
    {V4L2_PIX_FMT_YUYV, 640, 480, 30},  {V4L2_PIX_FMT_YUYV, 1280, 720, 10}, {V4L2_PIX_FMT_MJPEG, 640, 480, 30},
    {V4L2_PIX_FMT_MJPEG, 1280, 720, 30}, {V4L2_PIX_FMT_MJPEG, 1920, 1080, 30},
};
#define MODES (sizeof modes / sizeof *modes)
static const struct mode *now = modes;
static unsigned queue[BUFFERS], queued, sequence;
static double begun;

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int beside(const char *path, const char *suffix) {
    char name[600];
    snprintf(name, sizeof name, "%s%s", path, suffix);
    return access(name, F_OK) == 0;
}

static int fail(int code) {
    errno = code;
    return -1;
}

static unsigned fill(int fd, const char *path, unsigned index, int damaged) {
    static unsigned char picture[SLOT];
    unsigned size = now->width * now->height * 2;
    if (damaged) {
        for (unsigned i = 0; i < size; i++) picture[i] = rand();
    } else if (now->format == V4L2_PIX_FMT_MJPEG) {
        char name[600];
        snprintf(name, sizeof name, "%s.%ux%u.jpg", path, now->width, now->height);
        int file = open(name, O_RDONLY);
        size = file < 0 ? 0 : read(file, picture, SLOT);
        if (file >= 0) close(file);
    } else {
        for (unsigned i = 0; i < size; i += 2) picture[i] = 40 + sequence % 100, picture[i + 1] = 128;
    }
    return pwrite(fd, picture, size, (off_t)index * SLOT);
}

static int dequeue(int fd, const char *path, struct v4l2_buffer *buffer) {
    double due = begun + (sequence + 1.0) / now->fps;
    while (beside(path, ".frozen") || seconds() < due || !queued) {
        if (fcntl(fd, F_GETFL) & O_NONBLOCK) return fail(EAGAIN);
        if (access(path, F_OK)) return fail(ENODEV);
        usleep(1000);
    }
    int damaged = beside(path, ".damaged");
    buffer->index = queue[0];
    memmove(queue, queue + 1, --queued * sizeof *queue);
    buffer->bytesused = fill(fd, path, buffer->index, damaged);
    buffer->flags = V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC | (damaged && sequence % 2 ? V4L2_BUF_FLAG_ERROR : 0);
    buffer->sequence = sequence++;
    buffer->timestamp.tv_sec = due;
    buffer->timestamp.tv_usec = (due - (long)due) * 1e6;
    return 0;
}

static int set_format(struct v4l2_pix_format *pix) {
    const struct mode *best = NULL; /* as drivers do: the nearest size, and a format of its own for an unknown one */
    for (const struct mode *m = modes; m < modes + MODES; m++) {
        int far = abs((int)m->width - (int)pix->width);
        if (m->format == pix->pixelformat && (!best || far < abs((int)best->width - (int)pix->width))) best = m;
    }
    now = best ? best : modes;
    pix->pixelformat = now->format, pix->width = now->width, pix->height = now->height;
    pix->field = V4L2_FIELD_NONE, pix->sizeimage = now->width * now->height * 2;
    return 0;
}

static int answer(int fd, const char *path, unsigned long request, void *data) {
    if (access(path, F_OK)) return fail(ENODEV);
    switch (request) {
    case VIDIOC_QUERYCAP: {
        struct v4l2_capability *cap = data;
        strcpy((char *)cap->driver, "stub"), strcpy((char *)cap->card, "Stub Camera: Stub");
        strcpy((char *)cap->bus_info, "usb-stub-1");
        cap->device_caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
        cap->capabilities = cap->device_caps | V4L2_CAP_DEVICE_CAPS;
        return 0;
    }
    case VIDIOC_ENUM_FMT: {
        struct v4l2_fmtdesc *format = data;
        if (format->index > 1) return fail(EINVAL);
        format->pixelformat = format->index ? V4L2_PIX_FMT_MJPEG : V4L2_PIX_FMT_YUYV;
        return 0;
    }
    case VIDIOC_ENUM_FRAMESIZES: {
        struct v4l2_frmsizeenum *size = data;
        unsigned left = size->index;
        for (const struct mode *m = modes; m < modes + MODES; m++)
            if (m->format == size->pixel_format && !left--) {
                size->type = V4L2_FRMSIZE_TYPE_DISCRETE;
                size->discrete.width = m->width, size->discrete.height = m->height;
                return 0;
            }
        return fail(EINVAL);
    }
    case VIDIOC_ENUM_FRAMEINTERVALS: {
        struct v4l2_frmivalenum *rate = data;
        for (const struct mode *m = modes; m < modes + MODES && !rate->index; m++)
            if (m->format == rate->pixel_format && m->width == rate->width && m->height == rate->height) {
                rate->type = V4L2_FRMIVAL_TYPE_DISCRETE;
                rate->discrete.numerator = 1, rate->discrete.denominator = m->fps;
                return 0;
            }
        return fail(EINVAL);
    }
    case VIDIOC_G_INPUT: *(int *)data = 0; return 0;
    case VIDIOC_S_INPUT: return 0;
    case VIDIOC_ENUMINPUT: return ((struct v4l2_input *)data)->index ? fail(EINVAL) : 0;
    case VIDIOC_S_FMT: return beside(path, ".busy") ? fail(EBUSY) : set_format(&((struct v4l2_format *)data)->fmt.pix);
    case VIDIOC_G_FMT: {
        struct v4l2_pix_format *pix = &((struct v4l2_format *)data)->fmt.pix;
        pix->pixelformat = now->format, pix->width = now->width, pix->height = now->height;
        pix->field = V4L2_FIELD_NONE, pix->sizeimage = now->width * now->height * 2;
        return 0;
    }
    case VIDIOC_G_PARM:
    case VIDIOC_S_PARM: {
        struct v4l2_captureparm *capture = &((struct v4l2_streamparm *)data)->parm.capture;
        capture->capability = V4L2_CAP_TIMEPERFRAME;
        capture->timeperframe.numerator = 1, capture->timeperframe.denominator = now->fps;
        return 0;
    }
    case VIDIOC_REQBUFS: {
        struct v4l2_requestbuffers *wanted = data;
        queued = 0;
        if (wanted->count > BUFFERS) wanted->count = BUFFERS;
        return ftruncate(fd, (off_t)BUFFERS * SLOT);
    }
    case VIDIOC_QUERYBUF: {
        struct v4l2_buffer *buffer = data;
        buffer->length = SLOT, buffer->m.offset = buffer->index * SLOT;
        return 0;
    }
    case VIDIOC_QBUF: queue[queued++] = ((struct v4l2_buffer *)data)->index; return 0;
    case VIDIOC_DQBUF: return dequeue(fd, path, data);
    case VIDIOC_STREAMON: begun = seconds(), sequence = 0; return 0;
    case VIDIOC_STREAMOFF: return 0;
    }
    return fail(ENOTTY);
}

int ioctl(int fd, unsigned long request, ...) {
    static int (*next)(int, unsigned long, ...);
    va_list arguments;
    va_start(arguments, request);
    void *data = va_arg(arguments, void *);
    va_end(arguments);
    char link[32], path[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    const char *stub = getenv("V4L2_STUB");
    if (length > 0 && stub && (path[length] = 0, !strncmp(path, stub, strlen(stub))))
        return answer(fd, path, (unsigned)request, data);
    if (!next) next = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    return next(fd, request, data);
}
