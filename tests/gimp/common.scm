; common.scm: what the tests in GIMP share. `results-file` must be defined before.
;
; GIMP's exit status is always 0, so each check leaves a line in a file. The error hook keeps the words of the
; last failed call, which Script-Fu's catch would drop.

(define results (open-output-file results-file))

(define last-error "")
(set! *error-hook*
      (lambda x
        (set! last-error (if (and (pair? x) (string? (car x))) (car x) "no words"))
        (apply throw x)))

(define (line . words)
  (for-each (lambda (word) (display word results)) words)
  (newline results))

; value -> itself, so that what a check found can be shown when it is not what was wanted.
(define (check name found wanted)
  (if (equal? found wanted)
      (line "ok " name)
      (begin
        (display "FAIL " results)
        (display name results)
        (display ": " results)
        (write found results)
        (display " instead of " results)
        (write wanted results)
        (newline results))))

; re-match leaves the spaces of a pattern out.
(define (matches? words text)
  (re-match (unbreakupstr (strbreakup words " ") "\\s") text))

; thunk must fail, with words that match the pattern.
(define (check-error name pattern thunk)
  (set! last-error "no error")
  (catch #f (thunk))
  (if (matches? pattern last-error)
      (line "ok " name)
      (line "FAIL " name ": the error was: " last-error)))

; A thunk that ends in an error is a failure of this test alone.
(define (test name thunk)
  (set! last-error "")
  (if (not (catch #f (begin (thunk) #t)))
      (line "FAIL " name ": " last-error)))

(define (near? a b within)
  (cond ((null? a) (null? b))
        ((null? b) #f)
        (else (and (<= (abs (- (car a) (car b))) within) (near? (cdr a) (cdr b) within)))))

(define (check-near name found wanted within)
  (check name (if (near? found wanted within) wanted found) wanted))

; --- images ---

(define (new-image width height base)
  (let* ((image (car (gimp-image-new width height base)))
         (type (cond ((= base RGB) RGBA-IMAGE) ((= base GRAY) GRAYA-IMAGE)))
         (layer (car (gimp-layer-new image width height type "ground" 100 LAYER-MODE-NORMAL))))
    (gimp-image-insert-layer image layer 0 0)
    image))

(define (active image)
  (car (gimp-image-get-active-drawable image)))

(define (draw image prompt remove)
  (car (plug-in-moji-draw RUN-NONINTERACTIVE image (active image) prompt "" "" 42 0 -1 "" remove "" "")))

(define (pixel drawable x y)
  (vector->list (cadr (gimp-drawable-get-pixel drawable x y))))

; In the middle of the layer and in its corner, as colours on the screen.
(define (picked image layer at)
  (let ((offsets (gimp-drawable-offsets layer)))
    (car (gimp-image-pick-color image layer (+ (car offsets) at) (+ (cadr offsets) at)
                                FALSE FALSE 0))))

(define (recipe layer)
  (caddr (car (gimp-item-get-parasite layer "plug-in-moji/recipe"))))

; The last thing a file does: images left behind would make GIMP speak of leaks.
(define (done)
  (for-each (lambda (image) (gimp-image-delete image)) (vector->list (cadr (gimp-image-list))))
  (line "end")
  (close-output-port results))
